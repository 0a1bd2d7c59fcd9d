"""What the transformers engine does beyond the contract of all engines; a real GPT-2, made on the spot, answers."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from loquent.domain.errors import (
    ContextOverflow,
    EngineBusy,
    EngineFailed,
    Invalid,
    LoquentError,
    Misconfigured,
    ModelLoading,
    Unavailable,
)
from loquent.domain.models import Model
from loquent.domain.requests import Message, Parameters, Picture
from loquent.domain.usage import Usage
from loquent.engines import Options, connect
from loquent.engines.transformers import LINE, Transformers
from loquent.engines.transformers_text import BROKEN, Saying
from loquent.ports.engine import Ask, Chunk
from samples import gpt2

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.torch,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("transformers"),
]

TALE = "Once upon a time an old keeper lived in a lighthouse by the sea. Every night the keeper lit the great lamp."
BEGUN = "Once upon a time an old keeper lived in a"
REST = TALE.removeprefix(BEGUN)
BIRD = "The bird said: 🦜 naïve 漢字 ✓."
ENDLESS = "One, two, three, "
SLOTS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [TALE + gpt2.END, BIRD + gpt2.END, ENDLESS * 12, "user: Hello.\nassistant: Hello to you." + gpt2.END]
    made = gpt2.make(tmp_path_factory.mktemp("models") / "tiny", texts, template=gpt2.TEMPLATE)
    gc.collect()
    gc.freeze()  # the libraries stay: each engine that closes has the collector walk all there is
    return made


def row(**more: Any) -> Model:
    return Model(**{"name": "small", "engine": "transformers", "id": "tiny", **more})


def options(folder: Path, slots: int = SLOTS, context: int = 8192) -> Options:
    return Options(models_dir=folder, slots=slots, threads=1, context=context)


def built(folder: Path, model: Model | None = None, **more: Any) -> Transformers:
    engine = connect(model or row(id=folder.name), options(folder.parent, **more))
    assert isinstance(engine, Transformers)
    return engine


@pytest.fixture(scope="module")
async def engine(folder: Path) -> AsyncIterator[Transformers]:
    engine = built(folder)
    await engine.open()
    yield engine
    await engine.close()


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The same model in a folder that a test may spoil."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def asked(said: str | tuple[Message, ...], *, streamed: bool = True, **wanted: Any) -> Ask:
    parameters = Parameters(**{"temperature": 0.0, "max_tokens": 200, **wanted})
    if isinstance(said, str):
        return Ask(row(), parameters, prompt=said, streamed=streamed)
    return Ask(row(), parameters, said, streamed=streamed)


async def heard(engine: Transformers, ask: Ask) -> list[Chunk]:
    return [chunk async for chunk in engine.stream(ask)]


async def text(engine: Transformers, ask: Ask) -> str:
    return "".join(chunk.text for chunk in await heard(engine, ask))


async def all_free(engine: Transformers) -> None:
    async with asyncio.timeout(60):
        while engine.running():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("streamed", [True, False])
async def test_it_goes_on_to_the_end_and_says_what_it_used(engine: Transformers, folder: Path, streamed: bool) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    chunks = await heard(engine, asked(BEGUN, streamed=streamed))
    assert "".join(chunk.text for chunk in chunks) == REST
    assert len([chunk for chunk in chunks if chunk.text]) == 1 if not streamed else len(chunks) > 5
    read, said = len(tokenizer(BEGUN)["input_ids"]), len(tokenizer(TALE)["input_ids"])
    assert (chunks[-1].finish_reason, chunks[-1].usage) == ("stop", Usage(read, said - read + 1))  # the end is a token


async def test_characters_come_whole_and_half_ones_not_at_all(engine: Transformers) -> None:
    chunks = await heard(engine, asked("The bird said:"))
    assert "".join(chunk.text for chunk in chunks) == BIRD[14:]
    assert not any(BROKEN in chunk.text for chunk in chunks)
    for most in range(1, 24):
        chunks = await heard(engine, asked("The bird said:", max_tokens=most))
        said = "".join(chunk.text for chunk in chunks)
        assert BIRD[14:].startswith(said)
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == most


async def test_a_chat_is_answered_by_the_tokenizers_template(engine: Transformers) -> None:
    assert await text(engine, asked((Message("user", "Hello."),))) == " Hello to you."


async def test_without_a_template_a_chat_is_refused_and_a_prompt_is_not(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    engine = built(copied)
    await engine.open()
    try:
        with pytest.raises(Invalid, match="small has no chat template") as refused:
            await text(engine, asked((Message("user", "Hello."),)))
        assert refused.value.field == "messages"
        assert await text(engine, asked(BEGUN)) == REST
    finally:
        await engine.close()


async def test_what_a_template_refuses_is_the_askers_fault_and_not_quoted(copied: Path) -> None:
    (copied / "chat_template.jinja").write_text("{{ raise_exception('no ' + messages[0]['content']) }}")
    engine = built(copied)
    await engine.open()
    try:
        with pytest.raises(Invalid) as refused:
            await text(engine, asked((Message("user", "secret"),)))
        assert "secret" not in refused.value.message
    finally:
        await engine.close()


async def test_a_seed_gives_the_same_answer_alone_and_among_others(engine: Transformers) -> None:
    wild = {"temperature": 1.8, "max_tokens": 30}
    ask = asked(BEGUN, seed=7, **wild)
    alone = await text(engine, ask)
    other = asked("One,", seed=8, **wild)
    assert await asyncio.gather(*(text(engine, one) for one in (ask, other, ask))) == [
        alone,
        await text(engine, other),
        alone,
    ]
    assert await text(engine, asked(BEGUN, seed=9, **wild)) != alone
    assert len({await text(engine, asked(BEGUN, **wild)) for _ in range(4)}) > 1  # without a seed: by chance


async def test_a_narrow_top_p_or_hardly_any_temperature_leaves_the_likeliest_only(engine: Transformers) -> None:
    for chance in ({"temperature": 1.5, "top_p": 0.0}, {"temperature": 1e-40}):
        assert await text(engine, asked(BEGUN, seed=3, **chance)) == REST


async def test_answers_of_all_lengths_come_and_go_without_a_trace_in_each_other(engine: Transformers) -> None:
    prompts = [TALE[:9], "One,", "The bird said:", BEGUN, ENDLESS * 3, "The bird", TALE[:16], "One, two,"]
    asks = [asked(prompt, max_tokens=10 + 5 * n) for n, prompt in enumerate(prompts)]
    alone = [await text(engine, ask) for ask in asks]
    assert await asyncio.gather(*(text(engine, ask) for ask in asks)) == alone


async def test_a_stop_string_that_only_began_is_shown(engine: Transformers) -> None:
    assert await text(engine, asked(BEGUN, stop=("lamp.!", "keeperX"))) == REST
    chunks = await heard(engine, asked(BEGUN, stop=("great lamp",)))
    assert "".join(chunk.text for chunk in chunks) == REST[: REST.index("great lamp")]
    assert chunks[-1].finish_reason == "stop"


async def test_a_hang_up_frees_the_slot_and_the_others_go_on(engine: Transformers) -> None:
    other = asyncio.create_task(text(engine, asked("One,", max_tokens=400)))
    for _ in range(10):
        async with aclosing(engine.stream(asked("One,", max_tokens=1_000))) as stream:
            await anext(stream)
    assert await other
    await all_free(engine)


async def test_a_hang_up_in_the_line_leaves_it(engine: Transformers) -> None:
    tasks = [asyncio.create_task(text(engine, asked("One,", max_tokens=1_000))) for _ in range(SLOTS * 4)]
    while engine.running() < SLOTS * 4:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    assert await text(engine, asked("The bird said:")) == BIRD[14:]


async def test_more_than_may_wait_are_sent_away_and_told_when_to_come_back(engine: Transformers) -> None:
    streams = [engine.stream(asked("One,", max_tokens=1_000)) for _ in range(LINE + SLOTS)]
    firsts = [asyncio.ensure_future(anext(stream)) for stream in streams]
    while engine.running() < LINE + SLOTS:
        await asyncio.sleep(0)
    with pytest.raises(EngineBusy) as busy:
        await text(engine, asked("One"))
    assert busy.value.retry_after is not None
    for first in firsts:
        first.cancel()
    await asyncio.gather(*firsts, return_exceptions=True)
    for stream in streams:
        await stream.aclose()
    await all_free(engine)


async def test_an_answer_stops_where_the_context_ends(engine: Transformers) -> None:
    chunks = await heard(engine, asked("One" + ", two" * 500, max_tokens=None))
    used = chunks[-1].usage
    assert used is not None
    assert used.total_tokens == gpt2.CONTEXT
    assert chunks[-1].finish_reason == "length"


async def test_an_overflow_says_how_many_tokens_there_are_and_how_many_fit(folder: Path) -> None:
    small = built(folder, row(context=32))
    await small.open()
    try:
        with pytest.raises(ContextOverflow, match=r"is \d\d+ tokens, and the model takes 32,") as refused:
            await text(small, asked(TALE))
        assert refused.value.field == "prompt"
        assert "keeper" not in refused.value.message
    finally:
        await small.close()


@pytest.mark.parametrize("odd", ["", "\0", "<|endoftext|>", "🦜" * 20, "\r\n\t", "﷽", " "])
async def test_odd_text_is_taken(engine: Transformers, odd: str) -> None:
    for said in (odd, (Message("user", odd),)):
        chunks = await heard(engine, asked(said, max_tokens=3))
        assert chunks[-1].finish_reason
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.prompt_tokens > 0


@pytest.mark.parametrize(
    "ask",
    [
        asked("\ud800"),
        asked("Say", response_format={"type": "json_object"}),
        asked((Message("user", "Look.", (Picture("image/png", b""),)),)),
    ],
)
async def test_what_it_cannot_do_is_refused(engine: Transformers, ask: Ask) -> None:
    with pytest.raises(Invalid):
        await text(engine, ask)


async def test_a_word_that_the_model_has_never_heard_of_fails_alone(copied: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copied)
    tokenizer.add_tokens(["<unheard>"])  # more words than the model has
    tokenizer.save_pretrained(copied)
    engine = built(copied)
    await engine.open()
    try:
        other = asyncio.create_task(text(engine, asked("One,", max_tokens=100)))
        with pytest.raises(EngineFailed) as failed:
            await text(engine, asked("One, <unheard>"))
        assert "unheard" not in failed.value.message
        assert ENDLESS in await other
    finally:
        await engine.close()


async def test_the_event_loop_turns_while_the_model_is_loaded(folder: Path) -> None:
    engine = built(folder)
    await engine.open()
    with pytest.raises(ModelLoading):
        await engine.ready()
    said, _ = await asyncio.gather(text(engine, asked(BEGUN)), text(engine, asked("One,")))  # they wait for it
    assert said == REST
    await engine.ready()
    await engine.close()


async def test_two_models_load_and_answer_in_one_process(engine: Transformers, folder: Path) -> None:
    others = [built(folder, row(name=name)) for name in ("second", "third")]
    for other in others:
        await other.open()
    try:
        said = await asyncio.gather(*(text(each, asked(BEGUN)) for each in (engine, *others)))
        assert said == [REST] * 3
    finally:
        for other in others:
            await other.close()


async def test_closing_ends_what_is_running_and_frees_the_memory(folder: Path) -> None:
    from transformers import GPT2LMHeadModel

    engine = built(folder)
    await engine.open()
    await text(engine, asked("One,", max_tokens=1))
    gc.collect()
    models = [weakref.ref(each) for each in gc.get_objects() if type(each) is GPT2LMHeadModel]
    tasks = [asyncio.create_task(text(engine, asked("One,", max_tokens=1_000))) for _ in range(SLOTS + 3)]
    while engine.running() < SLOTS + 3:
        await asyncio.sleep(0)
    await engine.close()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, Unavailable)
    with pytest.raises(Unavailable):
        await text(engine, asked("One"))
    assert sum(model() is None for model in models) == 1


async def test_half_precision_is_kept_in_the_form_that_a_processor_can_reckon_in(tmp_path: Path) -> None:
    import torch

    from loquent.engines.transformers_model import load

    half = gpt2.make(tmp_path / "half", [TALE], dtype="float16", steps=0)
    loaded = load(half, row(), options(tmp_path))
    try:
        kinds = {weights.dtype for weights in loaded.runner._batch._model.parameters()}
        assert kinds == {torch.float16 if torch.cuda.is_available() else torch.bfloat16}
    finally:
        loaded.runner.close()


@pytest.mark.parametrize("bad", [row(id="odd name"), row(id="owner/name/more"), row(template="few-shot")])
def test_a_row_that_can_mean_nothing_stops_the_start(bad: Model, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="small"):
        connect(bad, options(tmp_path))


async def test_a_folder_without_a_model_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", str(tmp_path / "nothing")):
        with pytest.raises(Misconfigured, match="no folder of a model"):
            await built(tmp_path / "x", row(id=name)).open()


async def refused(folder: Path) -> str:
    """The one line that this folder is refused with, by ready and by an ask."""
    engine = built(folder)
    await engine.open()
    try:
        with pytest.raises(Unavailable) as away:
            await text(engine, asked("One,"))
        with pytest.raises(Unavailable):
            await engine.ready()
        assert "\n" not in away.value.message
        assert str(folder.parent) not in away.value.message
        return away.value.message
    finally:
        await engine.close()


async def test_damaged_weights_are_said_so_and_mended_without_a_restart(copied: Path, folder: Path) -> None:
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1_000])
    engine = built(copied)
    await engine.open()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match="small: transformers cannot load copied"):
                await text(engine, asked("One,"))
        weights.write_bytes(whole)
        assert await text(engine, asked(BEGUN)) == REST
    finally:
        await engine.close()


async def test_weights_that_could_run_code_are_not_read(copied: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "it ran",))

    import pickle

    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert "safetensors" in await refused(copied)
    assert not (tmp_path / "it ran").exists()


async def test_code_that_comes_with_a_model_is_not_run(copied: Path, tmp_path: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.Odd", "AutoModelForCausalLM": "odd.OddModel"}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "odd.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w').close()")
    assert "code of its own" in await refused(copied)
    assert not (tmp_path / "it ran").exists()


async def test_a_model_whose_answers_cannot_stand_side_by_side_is_refused(copied: Path) -> None:
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    with torch.random.fork_rng():
        MambaForCausalLM(MambaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1)).save_pretrained(copied)
    assert "TypeError" in await refused(copied)


async def test_scores_that_are_no_numbers_fail_one_answer_and_not_the_next(copied: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    (broken,) = AutoTokenizer.from_pretrained(copied)("Q")["input_ids"]
    weights = load_file(copied / "model.safetensors")
    weights["transformer.wte.weight"][broken] = float("nan")  # its scores are none, and it is never said
    weights["lm_head.weight"] = weights["transformer.wte.weight"].nan_to_num(0.0)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    engine = built(copied)
    await engine.open()
    try:
        other = asyncio.create_task(text(engine, asked("One,", max_tokens=100)))
        with pytest.raises(EngineFailed):
            await text(engine, asked("Q", temperature=1.0))
        assert ENDLESS in await other
    finally:
        await engine.close()


FAMILIES = {
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "turned places": ("Llama", {"num_key_value_heads": 2}),
    "a sliding window": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 8}),
    "biased by distance": ("Bloom", {"n_layer": 2, "n_head": 4}),
    "places by the mask": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_says_what_the_library_says_alone(family: str) -> None:
    import torch
    import transformers

    from loquent.engines.transformers_batch import Answer, Batch, Choosing

    class Ear:
        left = False
        text = ""

        def put(self, *pieces: Chunk | LoquentError | None) -> None:
            self.text += "".join(piece.text for piece in pieces if isinstance(piece, Chunk))

        def fail(self, fault: LoquentError) -> None:
            raise fault

    name, more = FAMILIES[family]
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{name}Config")(**sizes, intermediate_size=48, eos_token_id=None, **more)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        kind = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
        model = kind(config).eval()
        for weights in model.parameters():
            weights.data.normal_(0, 0.3)  # far apart, so that no two tokens are as likely
        prompts = [torch.randint(1, 99, (length,)).tolist() for length in (5, 150, 3, 20)]
    alone, ears, waiting = [], [], []
    for prompt, most in zip(prompts, (12, 5, 9, 16), strict=True):
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            pad_token_id=0,
            max_new_tokens=most,
            do_sample=False,
        )
        alone.append("".join(f"{token} " for token in found[0][len(prompt) :].tolist()))
        ears.append(Ear())
        saying = Saying(lambda tokens: "".join(f"{token} " for token in tokens))
        waiting.append(Answer(ears[-1], prompt, most, frozenset(), Choosing(0, 1, 0, 0), saying, streamed=True))
    batch = Batch(model)
    while waiting or batch.answers:
        if waiting:
            batch.read(waiting[0])
            if waiting[0].is_read:
                batch.join(waiting.pop(0))
        if batch.answers:
            batch.step()
    assert [ear.text for ear in ears] == alone


SCRIPT = """
import asyncio, sys
from pathlib import Path
from loquent.domain.errors import NotYet
from loquent.domain.models import Model
from loquent.domain.requests import Parameters
from loquent.engines import Options, connect
from loquent.ports.engine import Ask

async def main():
    path = Path(sys.argv[1])
    model = Model("small", "transformers", path.name)
    engine = connect(model, Options(path.parent, slots=1, threads=1))
    assert "torch" not in sys.modules and "transformers" not in sys.modules
    await engine.open()
    while True:  # an ask waits for some seconds only, and a slow machine is no fault
        try:
            await engine.ready()
            break
        except NotYet:
            await asyncio.sleep(0.1)
    async for chunk in engine.stream(Ask(model, Parameters(max_tokens=900), prompt="One,")):
        print("ready", flush=True)
        break

asyncio.run(main())
print("left", flush=True)
"""


async def test_a_process_ends_cleanly_in_mid_answer_and_hears_nothing_from_the_library(folder: Path) -> None:
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SCRIPT, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PATH": ""},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "ready\nleft\n"
    assert run.stderr == ""


@given(some.text("ab🦜ñ", max_size=30), some.lists(some.text("ab🦜ñ", min_size=1, max_size=4), max_size=4), some.data())
def test_whatever_the_tokens_the_text_is_whole_and_ends_before_the_first_stop_string(
    said: str, stops: list[str], data: some.DataObject
) -> None:
    saying = Saying(lambda tokens: bytes(tokens).decode("utf-8", "replace"), stops)
    shown = []
    for byte in said.encode():
        if saying.is_stopped:
            break
        shown.append(saying.take(byte))
    shown.append(saying.end())
    upto = next((n for n in range(len(said) + 1) if any(stop in said[:n] for stop in stops)), None)
    wanted = said if upto is None else said[: min(n for stop in stops if (n := said[:upto].find(stop)) >= 0)]
    assert "".join(shown) == wanted
    assert saying.is_stopped == (upto is not None)
    assert not any(BROKEN in piece for piece in shown)


def test_half_a_character_at_the_end_is_not_shown() -> None:
    saying = Saying(lambda tokens: bytes(tokens).decode("utf-8", "replace"))
    shown = [saying.take(byte) for byte in b"ab\xf0\x9f\xa6"]
    assert "".join([*shown, saying.end()]) == "ab"
