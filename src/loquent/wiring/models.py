"""The models with their engines, and which of them answer where a caller names none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from loquent import engines
from loquent.domain.errors import Misconfigured, NotFound
from loquent.domain.models import VISION, Model
from loquent.services.gate import Gate
from loquent.services.models import Models, Offer
from loquent.settings import Settings
from loquent.wiring.rows import ML, PREDICTOR, model_rows
from loquent.wiring.secrets import keys


def build_models(found: Settings) -> Models:
    """The models of the settings with their engines. Raises Misconfigured naming the row."""
    rows = model_rows(found)
    models = offered(found, rows, connector(found, rows, lambda name: name in models.used))
    return models


def connector(found: Settings, rows: Sequence[Model], is_used: Callable[[str], bool]) -> Callable[[Model], Offer]:
    """What makes an offer of a row: one of these, or one that is added later. Raises Misconfigured."""
    options = engines.Options(
        models_dir=found.weights_dir,
        slots=found.llama_slots,
        threads=found.llama_threads or None,
        context=found.llama_context,
        memory=found.llama_memory,
        at_start=is_used,
        keys=keys(found, rows),
        tells=lambda row: _is_named(engines.host_of(row), found.traces_to),
    )

    def connect(row: Model) -> Offer:
        row = _fitting(row, found)
        return Offer(row, engines.connect(row, options), gate=_gate(row, found))

    return connect


def offered(found: Settings, rows: list[Model], connect: Callable[[Model], Offer]) -> Models:
    """These rows, connected, and those of them that the settings name for a purpose. Raises Misconfigured."""
    offers = [connect(row) for row in rows]
    text = _called(rows, found.text_model) or _called(rows, found.llm_id)
    image = _image_model(found, rows)
    # who left out a shipped model is not answered by the fake that is shipped beside it
    unasked = frozenset(row.name for row in rows if row.engine == "echo") if found.models is None else frozenset()
    models = Models(offers, default=found.model, summary=found.summary_model, text=text, image=image, unasked=unasked)
    for name, env in ((found.model, "LOQUENT_MODEL"), (found.summary_model, "LOQUENT_SUMMARY_MODEL")):
        if name and name not in models.offers:
            raise Misconfigured(f"{env} holds {name!r}; it takes one of: {', '.join(models.offers)}")
    return models


def document_model(found: Settings, models: Models) -> str:
    """The model that answers about documents where none is named."""
    name = found.document_model
    if name and name not in models.offers:
        raise Misconfigured(f"LOQUENT_DOCUMENT_MODEL holds {name!r}; it takes one of: {', '.join(models.offers)}")
    return name or (ML if found.ml_url else models.summary)


def unknown_models(found: Settings, models: Models) -> list[str]:
    """A line for each variable of the textgen family that names no model of this deployment."""
    try:
        used = f"{models.text_offer().model.name} goes on from prompts instead"
    except NotFound:
        used = "no model goes on from prompts"
    return [
        f"{name} holds {value!r}, which is no model here; {used}"
        for name, value in (("MODEL_NAME", found.text_model), ("LLM_ID", found.llm_id))
        if value and not _called(models.rows(), value)
    ]


def _image_model(found: Settings, rows: list[Model]) -> str:
    """The model that sees images where none is named; empty: the first row that can."""
    name = found.image_model
    able = [row.name for row in rows if VISION in row.abilities]
    if name and name not in able:
        some = f"it takes one of: {', '.join(able)}" if able else "there is no model with the ability vision"
        raise Misconfigured(f"LOQUENT_IMAGE_MODEL holds {name!r}; {some}")
    return name or (PREDICTOR if found.image_model_url else "")


def _called(rows: list[Model], wanted: str) -> str:
    """The name of the row that goes by that name or id; empty where there is none."""
    return next((row.name for row in rows if wanted and wanted in (row.name, row.id)), "")


def _fitting(row: Model, found: Settings) -> Model:
    """The row, with no more context than an embedded model is given here: what is asked of it is cut to that."""
    if row.engine != "llama" or row.context is None or row.context <= found.llama_context:
        return row
    return replace(row, context=found.llama_context)


def _gate(row: Model, found: Settings) -> Gate | None:
    """Where an engine makes so many answers at once, the line before it is ours: there nobody is passed over."""
    if row.concurrency is None and row.engine in ("llama", "transformers"):
        return Gate(row.name, found.llama_slots)
    return None


def _is_named(host: str, names: Sequence[str]) -> bool:
    """Whether a list of hosts, as a setting has it, names this one."""
    name = f"[{host}]" if ":" in host else host
    return bool(name) and any(each in ("*", name) or (each[0] == "." and name.endswith(each)) for each in names)
