"""A limiter in Redis or Valkey: exact sliding windows that all processes share, by one script that is all or nothing.

While the server is away each process counts for itself, and says so; what it counted then is not carried over. Times
are the processes' own, which must agree to a fraction of the shortest window.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from itertools import count
from typing import Any

from redis.exceptions import NoScriptError

from loquent.domain.clock import now
from loquent.domain.errors import Unavailable
from loquent.limiters.memory import Memory
from loquent.limiters.windows import after_take, state_of, tightest
from loquent.links.redis import Link
from loquent.ports.limiter import Rate, State

PREFIX = "loquent:limit:"
SECONDS = 0.1  # that a call may take
TAKE, PEEK, BACK = "take", "peek", "back"

# A sorted set for each window, of the times of what was counted. First all windows are looked at, then all are counted
# in, or none. For each: how many it holds, the newest, and the one that has to leave before another may come.
SCRIPT = """
local present, member, verb = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local told, free = {}, true
for at, key in ipairs(KEYS) do
  local most, seconds = tonumber(ARGV[2 * at + 2]), tonumber(ARGV[2 * at + 3])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', present - seconds * 1000000))
  local held = redis.call('ZCARD', key)
  local newest = held > 0 and redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2] or '0'
  local frees = held >= most and redis.call('ZRANGE', key, held - most, held - most, 'WITHSCORES')[2] or '0'
  free = free and held < most
  table.insert(told, {held, newest, frees})
end
for at, key in ipairs(KEYS) do
  if verb == 'take' and free then
    redis.call('ZADD', key, ARGV[1], member)
    redis.call('PEXPIRE', key, tonumber(ARGV[2 * at + 3]) * 1000 + 1000)
  elseif verb == 'back' then
    redis.call('ZPOPMAX', key)
  end
end
return told
"""

SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()  # by which the server knows it
Asked = tuple[list[str], list[Any], asyncio.Future[Any]]


class Redis:
    """Calls of one turn of the loop travel together, so that many at once cost one round trip."""

    def __init__(self, url: str) -> None:
        self._link = Link(url, what="limiter", setting="LOQUENT_LIMITER", seconds=SECONDS, connections=2)
        self._alone = Memory()
        self._name, self._numbers = secrets.token_hex(4), count()
        self._asked: list[Asked] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """See the port."""
        await self._link.open()

    async def close(self) -> None:
        """See the port."""
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._link.close()

    async def ready(self) -> None:
        """See the port."""
        try:
            await self._link.ask(self._link.client.ping)
        except Unavailable as away:
            raise Unavailable("the server of the limiter is away: each process counts for itself") from away

    @property
    def is_alone(self) -> bool:
        """Whether this process counts for itself, because the server is away."""
        return not self._link.is_up

    async def take(self, key: str, rates: tuple[Rate, ...]) -> State:
        """See the port."""
        try:
            state = await self._do(TAKE, key, rates)
        except Unavailable:
            return await self._alone.take(key, rates)
        held = state.rate.count - state.remaining
        return after_take(state.rate, held + 1) if state.allowed else state

    async def give_back(self, key: str, rates: tuple[Rate, ...]) -> None:
        """See the port."""
        try:
            await self._do(BACK, key, rates)
        except Unavailable:
            await self._alone.give_back(key, rates)

    async def peek(self, key: str, rates: tuple[Rate, ...]) -> State:
        """See the port."""
        try:
            return await self._do(PEEK, key, rates)
        except Unavailable:
            return await self._alone.peek(key, rates)

    async def _do(self, verb: str, key: str, rates: tuple[Rate, ...]) -> State:
        present = now()
        keys = [f"{PREFIX}{{{key}}}:{rate.seconds}" for rate in rates]  # in braces: one shard of a cluster has them all
        wanted: list[Any] = [present, f"{present}-{self._name}-{next(self._numbers)}", verb]
        for rate in rates:
            wanted += (rate.count, rate.seconds)
        told = await self._send(keys, wanted)
        return tightest(
            state_of(rate, present, held, int(float(newest)), int(float(frees)))
            for rate, (held, newest, frees) in zip(rates, told, strict=True)
        )

    async def _send(self, keys: list[str], wanted: list[Any]) -> Any:
        if not self._link.is_up:
            raise Unavailable("the server of the limiter is away")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._asked.append((keys, wanted, answer))
        if len(self._asked) == 1:
            loop.call_soon(self._flush)
        return await answer

    def _flush(self) -> None:
        task = asyncio.create_task(self._travel(self._asked))
        self._asked = []
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _travel(self, asked: list[Asked]) -> None:
        """Send them together, and give each its answer, whatever comes."""
        try:
            answers = await self._link.ask(lambda: self._sent(asked))
        except Unavailable as away:
            answers = [away] * len(asked)
        for (_, _, answer), told in zip(asked, answers, strict=True):
            if answer.done():
                continue
            if isinstance(told, Exception):
                answer.set_exception(Unavailable(f"the server of the limiter refuses: {type(told).__name__}"))
            else:
                answer.set_result(told)

    async def _sent(self, asked: list[Asked]) -> list[Any]:
        """The answers. A server that was emptied has forgotten the script, and is told it again."""
        answers = await self._run(asked)
        if any(isinstance(told, NoScriptError) for told in answers):
            await self._link.client.script_load(SCRIPT)
            answers = await self._run(asked)  # none was done before: all of them lacked it
        return answers

    async def _run(self, asked: list[Asked]) -> list[Any]:
        pipe = self._link.client.pipeline(transaction=False)
        for keys, wanted, _ in asked:
            pipe.evalsha(SHA, len(keys), *keys, *wanted)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers
