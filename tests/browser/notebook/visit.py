"""What a notebook does: installs the wheel by its name, and talks to the swarm. ``relay`` is an address."""

import asyncio
import json

import micropip

micropip.set_index_urls([f"{relay}simple"])  # noqa: F821  (given by visit.js)
await micropip.install("kwaainet")  # noqa: F704  (run by runPythonAsync)

from kwaainet.browser import AsyncClient  # noqa: E402
from kwaainet.errors import InputError, KwaaiNetError  # noqa: E402

MESSAGES = [{"role": "user", "content": "Hi"}]


async def failing(work):
    """The name of the error that ``work`` raises."""
    try:
        await work
    except (KwaaiNetError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


async def talk():
    """Everything that the test wants to know."""
    found = {}
    loaded = []
    async with AsyncClient(relay, on_progress=lambda *progress: loaded.append(progress)) as client:  # noqa: F821
        create = client.chat.completions.create
        found["pieces"] = [piece async for piece in client.generate("Hi", max_tokens=16, temperature=0)]
        whole = await create(messages=MESSAGES, max_tokens=16, temperature=0)
        found["whole"] = whole.choices[0].message.content
        found["usage"] = [whole.usage.completion_tokens, whole.choices[0].finish_reason]
        found["refused"] = await failing(create(messages=MESSAGES, max_tokens=-1))
        found["unknown"] = await failing(create(messages=MESSAGES, logprobs=True))
        found["late"] = await failing(asyncio.wait_for(create(messages=MESSAGES, max_tokens=200), 0.2))
        async with await create(messages=MESSAGES, max_tokens=200, stream=True) as chunks:
            async for _ in chunks:
                break
        found["after"] = (await create(messages=MESSAGES, max_tokens=4)).usage.completion_tokens
    found["closed"] = await failing(create(messages=MESSAGES))
    found["loaded"] = max(done for _, done, _ in loaded)
    other = AsyncClient(relay, model="other")  # noqa: F821
    found["other"] = await failing(other.start())
    await other.close()
    found["nowhere"] = await failing(AsyncClient("http://localhost:1").start())
    return found


assert issubclass(InputError, KwaaiNetError)
json.dumps(await talk())  # noqa: F704
