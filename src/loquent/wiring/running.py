"""What runs generations, and keeps them: where traces are sent, both tell of what they do."""

from __future__ import annotations

from loquent.ports.blobs import Blobs
from loquent.ports.store import Store
from loquent.ports.tracer import Tracer
from loquent.services.answers import Answers
from loquent.services.images import about_images
from loquent.services.recipes import RECIPES, about_documents, answer
from loquent.services.runner import Runner
from loquent.services.traces import TracedRunner, told_writes
from loquent.services.turns import Turns
from loquent.settings import Settings
from loquent.wiring.rules import pace


def telling(found: Settings, store: Store, tracer: Tracer | None) -> Store:
    """That store, whose writes are told where traces are sent."""
    return store if tracer is None else told_writes(store, tracer, _system(found))


def runner_of(found: Settings, store: Store, files: Blobs, answers: Answers, tracer: Tracer | None) -> Runner:
    """What runs every kind of generation by its recipe."""
    turns = Turns(store, lambda id: runner.lives.get(id))
    uploads = {"document": about_documents(store), "image": about_images(store, files)}
    kept = {"text": answers.before(answer), "chat": answers.before(turns.answer)}
    recipes = {**RECIPES, **uploads, **kept}
    if tracer is None:
        runner = Runner(store, recipes, pace(found))
    else:
        runner = TracedRunner(store, recipes, pace(found), tracer=tracer, tells_content=found.log_content)
    return runner


def _system(found: Settings) -> str:
    """What OpenTelemetry calls the database."""
    scheme = found.store_url.partition(":")[0].partition("+")[0]
    return {"postgres": "postgresql", "dynamodb": "aws.dynamodb"}.get(scheme, scheme)
