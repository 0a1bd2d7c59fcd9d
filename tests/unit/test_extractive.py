"""The extractive engine: it takes sentences from the text, the right ones, and lets go when nobody waits."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loquent.domain.errors import Invalid, Unavailable
from loquent.domain.extracts import choose
from loquent.domain.models import SUMMARY, Model
from loquent.domain.requests import Message, Parameters
from loquent.domain.usage import estimate_tokens
from loquent.engines import Options
from loquent.engines.extractive import Extractive
from loquent.ports.engine import Ask, Chunk

pytestmark = pytest.mark.anyio

MODEL = Model("extractive", "extractive", "extractive", frozenset((SUMMARY,)))

REEF = """The Reef Report

Coral reefs around the world are dying because the oceans are getting warmer, a study of marine biologists has found.
The study followed forty reefs in three oceans over twenty years. It was raining on the day when it was presented.
Warmer water drives out the algae that corals live on, so that the reefs bleach and, in the end, die.
"I like to go diving," said one of the guests. Lunch was served at noon in the large hall on the second floor.

The biologists found that reefs where fishing is forbidden recover from bleaching twice as fast as the other reefs.
Coral reefs around the world are dying because the oceans are getting warmer, a study of marine biologists has found.
They ask governments to forbid fishing on a third of all coral reefs and to slow down the warming of the oceans.
The car park was full.

Contents . . . . . . . . . . . . . . . . . . 3
17
References
[1] Smith, J. Coral reefs and the warming of the oceans: a study of bleaching. Marine Biology, 2019.
[2] Jones, K. Warmer oceans and dying coral reefs around the world. Reef Letters, 2021.
"""

LANGUAGES = {
    "german": "Die Korallenriffe der Erde sterben, weil die Meere wärmer werden. Gestern gab es Suppe zum Mittagessen. "
    "Wenn die Meere wärmer werden, verlieren die Korallenriffe ihre Algen und sterben. Der Hund schlief lange. "
    "Forscher fordern, die Korallenriffe zu schützen und die Erwärmung der Meere zu bremsen.",
    "russian": "Коралловые рифы умирают, потому что океаны становятся теплее. Вчера на обед был вкусный суп с грибами. "
    "Когда океаны становятся теплее, коралловые рифы теряют водоросли и умирают. Собака долго спала у двери дома. "
    "Учёные просят защитить коралловые рифы и остановить потепление океанов.",
    "chinese": "由于海洋温度上升，世界各地的珊瑚礁正在迅速死亡。昨天我们在食堂吃了很好吃的面条和饺子。"
    "海洋温度上升使珊瑚礁失去藻类，珊瑚礁因此白化并死亡。那只小狗在门口安静地睡了一整天没有动。"
    "科学家呼吁各国政府保护珊瑚礁，并减缓海洋温度上升的速度。",
    "hindi": "समुद्र के गर्म होने से दुनिया भर की प्रवाल भित्तियाँ मर रही हैं। कल दोपहर के खाने में हमने बहुत स्वादिष्ट सूप पिया था। "
    "समुद्र के गर्म होने पर प्रवाल भित्तियाँ अपने शैवाल खो देती हैं और मर जाती हैं। कुत्ता दरवाज़े के पास बहुत देर तक सोता रहा। "
    "वैज्ञानिक चाहते हैं कि प्रवाल भित्तियाँ बचाई जाएँ और समुद्र का गर्म होना रोका जाए।",
}


@pytest.fixture
def engine(tmp_path: Path) -> Extractive:
    return Extractive(MODEL, Options(tmp_path))


async def answer(engine: Extractive, text: str, **parameters: int | tuple[str, ...]) -> list[Chunk]:
    ask = Ask(MODEL, Parameters(**parameters), prompt=text)  # type: ignore[arg-type]
    return [chunk async for chunk in engine.stream(ask)]


async def test_an_answer_has_the_sentences_that_the_text_is_about(engine: Extractive) -> None:
    chunks = await answer(engine, REEF)
    text = "".join(chunk.text for chunk in chunks)
    assert "Coral reefs around the world are dying" in text
    assert not any(each in text for each in ("Lunch", "raining", "car park", "diving"))
    assert not any(each in text for each in ("[1]", "[2]", "The Reef Report", "Contents", "17"))


async def test_what_is_said_twice_is_taken_once(engine: Extractive) -> None:
    text = "".join(chunk.text for chunk in await answer(engine, REEF, max_tokens=200))
    assert text.count("Coral reefs around the world are dying") == 1


async def test_each_sentence_stands_in_the_text_where_its_span_says_in_the_texts_order(engine: Extractive) -> None:
    *said, last = await answer(engine, REEF.replace("warmer,", "warm-\ner,"))
    spans = [chunk.source for chunk in said]
    assert all(span is not None for span in spans)
    assert all(first[1] <= second[0] for first, second in pairwise(spans) if first and second)
    for chunk in said:
        assert chunk.source
        source = REEF.replace("warmer,", "warm-\ner,")[slice(*chunk.source)]
        assert "".join(chunk.text.split()) == "".join(source.split())
        assert "\n" not in chunk.text.strip()
    assert last.finish_reason == "stop"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_choice_is_right_in_other_languages(engine: Extractive, language: str) -> None:
    text = LANGUAGES[language]
    about = {"german": "Korallenriffe", "russian": "рифы", "chinese": "珊瑚礁", "hindi": "प्रवाल"}[language]
    *said, _ = await answer(engine, text)
    assert said
    assert all(about in chunk.text for chunk in said)


async def test_sentences_are_parted_as_their_script_wants_it(engine: Extractive) -> None:
    spaced = "".join(chunk.text for chunk in await answer(engine, REEF, max_tokens=90))
    assert ". " in spaced
    assert "  " not in spaced
    unspaced = "".join(chunk.text for chunk in await answer(engine, LANGUAGES["chinese"] + LANGUAGES["chinese"][:52]))
    assert " " not in unspaced


@pytest.mark.parametrize("tokens", [30, 60, 120])
async def test_an_answer_keeps_to_its_tokens(engine: Extractive, tokens: int) -> None:
    chunks = await answer(engine, REEF, max_tokens=tokens)
    assert estimate_tokens("".join(chunk.text for chunk in chunks)) <= tokens + len(chunks)


async def test_a_sentence_is_never_cut_even_where_it_is_too_long(engine: Extractive) -> None:
    text = "The only sentence of this text is rather longer than what has been asked for by its reader."
    said, last = await answer(engine, text, max_tokens=3)
    assert (said.text, said.source) == (text, (0, len(text)))
    assert last.usage
    assert (last.usage.prompt_tokens, last.usage.estimated) == (estimate_tokens(text), True)


async def test_the_same_text_gives_the_same_answer(engine: Extractive) -> None:
    assert await answer(engine, REEF, seed=1) == await answer(engine, REEF, seed=2)


async def test_the_last_thing_that_the_user_said_is_the_text(engine: Extractive) -> None:
    messages = (
        Message("system", "Summarise."),
        Message("user", "Something else was said before. It is not the text."),
        Message("assistant", "Yes."),
        Message("user", REEF),
    )
    chunks = [chunk async for chunk in engine.stream(Ask(MODEL, Parameters(), messages=messages))]
    assert chunks == await answer(engine, REEF)


@pytest.mark.parametrize("text", ["", "  \n ", "*** --- !!!"])
async def test_a_text_without_words_is_refused(engine: Extractive, text: str) -> None:
    with pytest.raises(Invalid, match="no text"):
        await answer(engine, text)


@pytest.mark.parametrize("text", ["Hello", "A title\n\nAnother title\n", "1\n2\n3\n", "x" * 5000, "- one\n- two"])
async def test_a_text_without_sentences_still_has_an_answer(engine: Extractive, text: str) -> None:
    assert "".join(chunk.text for chunk in await answer(engine, text))


async def test_an_answer_ends_before_a_stop_string(engine: Extractive) -> None:
    whole = "".join(chunk.text for chunk in await answer(engine, REEF))
    cut = "".join(chunk.text for chunk in await answer(engine, REEF, stop=("nowhere", "warmer")))
    assert cut == whole[: whole.index("warmer")]


async def test_a_long_text_does_not_hold_up_the_event_loop_and_ends_when_nobody_waits(engine: Extractive) -> None:
    ask = Ask(MODEL, Parameters(), prompt="".join(REEF.replace("reef", f"reef {number}") for number in range(4000)))
    asking = asyncio.create_task(anext(engine.stream(ask)))
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    quick = asyncio.create_task(answer(engine, REEF))  # and the next is not kept waiting by the first
    assert await quick
    assert await asyncio.to_thread(_is_idle)


async def test_closing_ends_what_is_running(engine: Extractive) -> None:
    text = "".join(REEF.replace("reef", f"reef {number}") for number in range(4000))
    asking = asyncio.create_task(answer(engine, text))
    await asyncio.sleep(0.05)
    await engine.close()
    await engine.close()
    with pytest.raises(Unavailable):
        await asking


@given(st.text(st.sampled_from("abc dé.!?\n-[]1中文。 "), min_size=1, max_size=400), st.integers(1, 100))
def test_a_choice_is_of_whole_sentences_in_order(text: str, tokens: int) -> None:
    spans = choose(text, tokens)
    edges = [place for span in spans for place in span]
    assert edges == sorted(edges)
    assert bool(spans) == any(each.isalnum() for each in text)


def test_a_choice_can_be_ended_at_any_time() -> None:
    class Enough(Exception):
        pass

    def pause() -> None:
        raise Enough

    with pytest.raises(Enough):
        choose(REEF, 100, pause)


def _is_idle() -> bool:
    """Whether this process soon stops using its processor: nothing is left that works for nobody."""
    for _ in range(50):
        used = time.process_time()
        time.sleep(0.1)
        if time.process_time() - used < 0.05:
            return True
    return False
