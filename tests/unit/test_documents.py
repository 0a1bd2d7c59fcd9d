"""Documents: kept with their text, asked about by models of every kind, and never left half there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from built import ANN, ANN_ELSEWHERE, BOB, ROWS, opened, settings_for
from loquent import readers
from loquent.domain.clock import later, now
from loquent.domain.documents import Document, DocumentText, asking, noting
from loquent.domain.errors import (
    ContextOverflow,
    Invalid,
    LoquentError,
    Misconfigured,
    NotFound,
    StillRunning,
    Taken,
    Unavailable,
)
from loquent.domain.generations import Content, Generation
from loquent.domain.principals import Principal
from loquent.domain.requests import Parameters
from loquent.domain.summaries import piece_characters
from loquent.ports.engine import Ask
from loquent.services.documents import Documents, Question
from loquent.services.history import Filters
from loquent.services.limits import Over
from loquent.services.uploads import Uploads
from loquent.services.wanted import Begun, Key
from loquent.wiring import Services, build

pytestmark = pytest.mark.anyio
TEXT = "The river Aare rises in the Alps. It flows around the old town of Bern. Many people swim in it in summer."
ML = '[[model]]\nname = "prompts"\nengine = "echo"\nid = "echo"\nabilities = ["text"]\ncontext = 300\n'


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "upload"
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.fixture
def aare(file: Callable[[str], Path]) -> Path:
    return file(TEXT)


async def kept(services: Services, path: Path, who: Principal = ANN) -> Document:
    return (await services.documents.keep(who, path, "aare.txt", surface="api")).record


async def answer(services: Services, id: str, question: Question) -> tuple[Generation, Content]:
    begun = await services.documents.ask(ANN, id, question, surface="api")
    await services.generations.collect(begun)
    return begun.now()


async def blobs(services: Services) -> set[str]:
    return {each.key async for each in services.blobs.list(until=later(now(), 60))}


def listening(services: Services, model: str) -> list[Ask]:
    """Everything that this model is asked from now on; it still answers itself."""
    asked: list[Ask] = []
    engine: Any = services.models.offers[model].engine
    stream = engine.stream

    def listen(ask: Ask) -> Any:
        asked.append(ask)
        return stream(ask)

    engine.stream = listen
    return asked


async def test_a_file_is_kept_with_its_text_and_comes_back_as_it_was(tmp_path: Path, aare: Path) -> None:
    async with opened(tmp_path) as services:
        document = await kept(services, aare)
        data = TEXT.encode()
        assert (document.kind, document.media_type, document.pages) == ("txt", "text/plain", None)
        assert (document.size, document.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert (document.characters, document.name, document.surface) == (len(TEXT), "aare.txt", "api")
        assert (await services.documents.text(ANN, document.id)).text == TEXT
        found, pieces = await services.documents.original(ANN, document.id)
        assert (found.id, b"".join([piece async for piece in pieces])) == (document.id, data)
        assert await blobs(services) == {document.blob}


async def test_what_is_anothers_is_not_there(tmp_path: Path, aare: Path) -> None:
    async with opened(tmp_path) as services:
        id = (await kept(services, aare)).id
        for other in (BOB, ANN_ELSEWHERE):
            documents = services.documents
            for ask in (documents.get, documents.text, documents.original, documents.remove):
                with pytest.raises(NotFound):
                    await ask(other, id)
            with pytest.raises(NotFound):
                await documents.ask(other, id, Question(), surface="api")
            assert (await documents.page(other, limit=10)).items == []
        assert await services.documents.get(ANN, id)


async def test_a_removed_one_is_gone_with_its_text_and_its_original_and_its_answers_stay(
    tmp_path: Path, aare: Path
) -> None:
    async with opened(tmp_path) as services:
        document = await kept(services, aare)
        made, _ = await answer(services, document.id, Question())
        removals = [services.documents.remove(ANN, document.id) for _ in range(3)]
        results = await asyncio.gather(*removals, return_exceptions=True)
        assert sum(result is None for result in results) == 1
        assert all(result is None or isinstance(result, NotFound) for result in results)
        assert (
            await services.store.get(Document, document.id) == await services.store.get(DocumentText, document.id) == []
        )
        assert await blobs(services) == set()
        assert (await services.documents.answered(ANN, made.id)).document is None


async def test_a_document_that_goes_before_its_job_runs_is_a_clear_failure(tmp_path: Path, aare: Path) -> None:
    async with opened(tmp_path, works=False) as services:
        document = await kept(services, aare)
        begun = await services.documents.ask(ANN, document.id, Question(background=True), surface="api")
        await services.documents.remove(ANN, document.id)
        await services.worker.open(alone=False)
        async for event in services.generations.follow(ANN, begun.generation.id):
            if event.kind == "done" and event.generation:
                assert event.generation.status == "failed"
                assert event.generation.error_message == "the document has been removed"


# What is asked of which model


async def test_without_an_instruction_a_model_that_shortens_gives_a_summary(tmp_path: Path, aare: Path) -> None:
    async with opened(tmp_path) as services:
        made, content = await answer(services, (await kept(services, aare)).id, Question())
    assert (made.model, made.kind, made.upload) == ("extractive", "document", content.input["document"])
    assert content.input == {"document": made.upload, "name": "aare.txt", "instruction": ""}
    assert content.output
    assert content.output in TEXT


async def test_without_an_instruction_a_model_that_chats_is_asked_for_one(tmp_path: Path, aare: Path) -> None:
    async with opened(tmp_path) as services:
        asked = listening(services, "echo")
        await answer(services, (await kept(services, aare)).id, Question(model="echo"))
    [ask] = asked
    assert ask.messages[0].content.startswith("Summarize the text")
    assert TEXT in ask.messages[0].content


async def test_an_instruction_goes_with_the_text_and_what_only_shortens_is_passed_over(
    tmp_path: Path, aare: Path
) -> None:
    async with opened(tmp_path) as services:
        asked = listening(services, "echo")
        question = Question("  Who swims there? ", parameters=Parameters(max_tokens=7))
        made, content = await answer(services, (await kept(services, aare)).id, question)
        with pytest.raises(Invalid) as refused:
            await answer(services, made.upload or "", Question("Who swims there?", model="extractive"))
    assert (made.model, made.input_preview, made.parameters) == ("echo", "Who swims there?", {"max_tokens": 7})
    assert content.input["instruction"] == "Who swims there?"
    assert asked[0].messages[0].content == asking("Who swims there?", TEXT)
    assert made.completion_tokens == 7
    assert refused.value.field == "model"


async def test_a_model_that_only_goes_on_from_prompts_gets_the_text_as_it_is(tmp_path: Path, aare: Path) -> None:
    async with opened(tmp_path) as services:
        asked = listening(services, "prompt-only")
        id = (await kept(services, aare)).id
        for wish, prompt in (("", TEXT), ("Who?", f"Who?\n\n{TEXT}")):
            await answer(services, id, Question(wish, model="prompt-only"))
            assert (asked[-1].prompt, asked[-1].messages) == (prompt, ())


async def test_a_text_that_does_not_fit_is_noted_piece_by_piece_and_all_of_it_is_read(
    tmp_path: Path, file: Callable[[str], Path]
) -> None:
    """The echo model says back what it is asked, so each piece's own mark shows that it was read."""
    marks = [f"mark{number:02d}" for number in range(6)]
    long = file("\n\n".join(f"{mark} " + "word " * 90 for mark in marks))
    async with opened(tmp_path) as services:
        asked = listening(services, "echo")
        made, content = await answer(services, (await kept(services, long)).id, Question("Which marks?", model="echo"))
    prompts = [ask.messages[0].content for ask in asked]
    assert len(prompts) > 3
    assert all(any(mark in prompt for prompt in prompts) for mark in marks)
    assert all("Which marks?" in prompt for prompt in prompts)
    assert "notes on the parts" in prompts[-1]
    most = piece_characters(1000, beside=len("Which marks?"))
    assert all(len(prompt) <= most + len(noting("Which marks?", "")) + 50 for prompt in prompts)
    assert made.steps == made.steps_done > 1
    assert content.output


async def test_a_model_that_takes_it_whole_says_where_it_is_too_long(
    tmp_path: Path, file: Callable[[str], Path]
) -> None:
    (tmp_path / "own.toml").write_text(ROWS + ML)
    async with opened(tmp_path, LOQUENT_MODELS=str(tmp_path / "own.toml")) as services:
        document = await kept(services, file("word " * 2_000))
        with pytest.raises(ContextOverflow):
            await answer(services, document.id, Question(model="prompts"))
        page = await services.generations.page(ANN, Filters(status="failed"), limit=10)
        assert [each.error_code for each in page.items] == ["context_length_exceeded"]


@pytest.mark.parametrize(
    ("environ", "model"),
    [
        ({}, "extractive"),
        ({"LOQUENT_SUMMARY_MODEL": "echo"}, "echo"),
        ({"ML_URL": "http://127.0.0.1:9"}, "ml"),
        ({"ML_URL": "http://127.0.0.1:9", "LOQUENT_DOCUMENT_MODEL": "prompt-only"}, "prompt-only"),
    ],
)
async def test_the_model_for_documents_is_the_one_that_is_set(
    tmp_path: Path, aare: Path, environ: dict[str, str], model: str
) -> None:
    async with opened(tmp_path, works=False, **environ) as services:
        document = await kept(services, aare)
        begun = await services.documents.ask(ANN, document.id, Question(background=True), surface="api")
        assert begun.generation.model == model
        other = await services.documents.ask(ANN, document.id, Question(model="echo", background=True), surface="api")
        assert other.generation.model == "echo"


def test_ml_url_makes_a_row_with_the_familys_own_patience(tmp_path: Path) -> None:
    row = build(settings_for(tmp_path, ML_URL="http://127.0.0.1:9/base/")).models.offers["ml"].model
    assert (row.engine, row.url, row.timeouts.total, row.abilities) == (
        "http_text",
        "http://127.0.0.1:9/base/",
        50,
        {"text"},
    )
    assert "ml" not in build(settings_for(tmp_path)).models.offers


def test_a_model_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="LOQUENT_DOCUMENT_MODEL"):
        build(settings_for(tmp_path, LOQUENT_DOCUMENT_MODEL="nobody"))


# Limits, repeats and faults


async def test_uploads_count_as_generations_do_and_a_repeat_counts_nothing(tmp_path: Path, aare: Path) -> None:
    key = Key("POST /api/v1/documents", "a key", b"body")
    async with opened(tmp_path, LOQUENT_LIMIT_GENERATIONS="2/minute") as services:
        keep = services.documents.keep
        first = await keep(ANN, aare, "a.txt", surface="api", key=key)
        again = await keep(ANN, aare, "a.txt", surface="api", key=key)
        assert (again.record.id, again.replayed, first.replayed) == (first.record.id, True, False)
        await keep(ANN, aare, "a.txt", surface="api")
        with pytest.raises(Over):
            await keep(ANN, aare, "a.txt", surface="api")
        assert (await keep(ANN, aare, "a.txt", surface="api", key=key)).record.id == first.record.id
        await keep(BOB, aare, "a.txt", surface="api", key=key)
        assert len(await blobs(services)) == 3


async def test_the_same_upload_at_the_same_time_is_one_document(tmp_path: Path, aare: Path) -> None:
    key = Key("POST /api/v1/documents", "a key", b"body")
    async with opened(tmp_path, LOQUENT_LIMIT_GENERATIONS="3/minute") as services:
        made = await asyncio.gather(
            *(services.documents.keep(ANN, aare, "a.txt", surface="api", key=key) for _ in range(3))
        )
        assert len({each.record.id for each in made}) == 1
        assert sorted(each.replayed for each in made) == [False, True, True]
        assert await blobs(services) == {made[0].record.blob}
        left = [await services.documents.keep(ANN, aare, "a.txt", surface="api") for _ in range(2)]
        assert len({each.record.id for each in left}) == 2, "the repeats were given back"


class Refusing:
    """A store whose writes fail, or seem to."""

    def __init__(self, store: Any, error: LoquentError, *, happens: bool = False) -> None:
        self._store, self._error, self._happens = store, error, happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, *changes: Any) -> None:
        if self._happens:
            await self._store.write(*changes)
        raise self._error


def over(services: Services, store: Any) -> Documents:
    reader = readers.connect()
    return Documents(
        store, services.blobs, reader, services.generations, services.models, services.limits, model="echo"
    )


@pytest.mark.parametrize(
    ("error", "happens", "left"),
    [
        (Invalid("it cannot be kept"), False, 0),
        (Taken("id"), False, 0),
        (Unavailable("unknown whether it happened"), False, 1),
        (Unavailable("unknown whether it happened"), True, 1),
    ],
)
async def test_where_the_record_cannot_be_written_the_file_goes_unless_nobody_knows(
    tmp_path: Path, aare: Path, error: LoquentError, happens: bool, left: int
) -> None:
    async with opened(tmp_path) as services:
        documents = over(services, Refusing(services.store, error, happens=happens))
        with pytest.raises(LoquentError):
            await documents.keep(ANN, aare, "a.txt", surface="api")
        assert len(await blobs(services)) == left
        rows = (await services.documents.page(ANN, limit=10)).items
        assert {each.blob for each in rows} <= await blobs(services), "no row without its blob"
        assert len(rows) == happens


async def test_a_file_that_cannot_be_read_leaves_nothing(tmp_path: Path, file: Callable[[str], Path]) -> None:
    async with opened(tmp_path) as services:
        for text, name in (("", "a.txt"), ("%PDF-1.7 no", "a.pdf"), ("text", "a.pdf"), ("text", "a.exe")):
            with pytest.raises(Invalid):
                await services.documents.keep(ANN, file(text), name, surface="api")
        assert await blobs(services) == set()
        assert (await services.documents.page(ANN, limit=10)).items == []


# Kept and asked about in one


class Meanwhile:
    """Blobs, and what happens elsewhere once one has been kept, and before one is removed."""

    def __init__(self, blobs: Any) -> None:
        self._blobs = blobs
        self.after_put: list[Callable[[], Awaitable[Any]]] = []
        self.before_removal: list[Callable[[], Awaitable[Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def put(self, key: str, path: Path) -> None:
        await self._blobs.put(key, path)
        if self.after_put:
            await self.after_put.pop()()

    async def remove(self, key: str) -> None:
        if self.before_removal:
            await self.before_removal.pop()()
        await self._blobs.remove(key)


def beside(services: Services) -> tuple[Documents, Meanwhile]:
    blobs: Any = Meanwhile(services.blobs)
    found = services
    made = Documents(
        found.store, blobs, readers.connect(), found.generations, found.models, found.limits, model="extractive"
    )
    return made, blobs


async def sent(documents: Documents, path: Path, key: Key | None = None) -> tuple[Begun, str]:
    return await documents.keep_and_ask(ANN, path, "a.txt", ending=".txt", surface="documents", key=key)


async def rows(services: Services) -> list[int]:
    return [await services.store.count(kind, "all", {}) for kind in (Document, DocumentText)]


async def test_one_that_is_kept_beside_its_repeat_goes_again(tmp_path: Path, aare: Path) -> None:
    key = Key("POST /getdoc/uploadfile", "a key", b"body")
    async with opened(tmp_path) as services:
        documents, meanwhile = beside(services)
        first: list[Begun] = []

        async def is_faster() -> None:
            begun, _ = await sent(services.documents, aare, key)
            first.append(await services.generations.collect(begun))

        meanwhile.after_put.append(is_faster)
        begun, text = await sent(documents, aare, key)
        assert (begun.replayed, text) == (True, TEXT)
        assert begun.generation.id == first[0].generation.id
        assert await blobs(services) == {f"documents/{begun.generation.upload}"}
        assert await rows(services) == [1, 1]


async def test_one_that_is_kept_while_the_first_still_runs_goes_again(tmp_path: Path, aare: Path) -> None:
    key = Key("POST /getdoc/uploadfile", "a key", b"body")
    async with opened(tmp_path) as services:
        documents, meanwhile = beside(services)
        meanwhile.after_put.append(lambda: sent(services.documents, aare, key))
        with pytest.raises(StillRunning):
            await sent(documents, aare, key)
        [generation] = (await services.generations.page(ANN, Filters(kind="document"), limit=10)).items
        assert await blobs(services) == {f"documents/{generation.upload}"}
        assert await rows(services) == [1, 1]


async def test_of_many_at_once_only_those_within_the_limit_are_kept(tmp_path: Path, aare: Path) -> None:
    async with opened(tmp_path, LOQUENT_LIMIT_GENERATIONS="5/minute") as services:
        calls = [sent(services.documents, aare) for _ in range(12)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        uploads = {each[0].generation.upload for each in results if not isinstance(each, BaseException)}
        assert sum(isinstance(each, Over) for each in results) == 7
        assert await blobs(services) == {f"documents/{each}" for each in uploads}
        assert await rows(services) == [5, 5] == [len(uploads)] * 2


async def test_a_repeat_outlives_its_document(tmp_path: Path, aare: Path) -> None:
    key = Key("POST /getdoc/uploadfile", "a key", b"body")
    async with opened(tmp_path) as services:
        begun, _ = await sent(services.documents, aare, key)
        made, _ = (await services.generations.collect(begun)).now()
        await services.documents.remove(ANN, made.upload or "")
        again, text = await sent(services.documents, aare, key)
        assert (again.generation.id, again.replayed, text) == (made.id, True, "")
        assert again.content.output
        assert await rows(services) == [0, 0]


async def test_who_leaves_while_it_goes_again_does_not_stop_that(tmp_path: Path, aare: Path) -> None:
    async with opened(tmp_path, LOQUENT_LIMIT_GENERATIONS="1/minute") as services:
        documents, meanwhile = beside(services)
        going, left = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            going.set()
            await left.wait()

        meanwhile.after_put.append(lambda: sent(services.documents, aare))
        meanwhile.before_removal.append(wait)
        task = asyncio.create_task(sent(documents, aare))
        await going.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left.set()
        async with asyncio.timeout(20):
            while len(await blobs(services)) > 1:
                await asyncio.sleep(0.01)
        assert await rows(services) == [1, 1]


async def test_where_nobody_knows_whether_it_was_begun_what_was_sent_stays(tmp_path: Path, aare: Path) -> None:
    async with opened(tmp_path) as services:
        for error in (Unavailable("unknown whether it happened"), asyncio.CancelledError()):
            document = await kept(services, aare)
            uploads = Uploads(services.store, services.blobs, services.limits, Document, called="document")

            async def ask(error: BaseException = error) -> Begun:
                raise error

            with pytest.raises(type(error)):
                await uploads.begin(ask(), lambda id=document.id: services.documents.remove(ANN, id))  # type: ignore[misc]
            assert await services.documents.get(ANN, document.id)
