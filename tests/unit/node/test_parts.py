"""Parts of tensors: without gaps, from the start, and never trusted."""

from hashlib import sha256

from kwaainet.formats.manifest import MAX_READ, TensorEntry
from kwaainet.node.parts import Parts
from kwaainet.testing.clock import run
from kwaainet.testing.store import MemoryStore

DATA = bytes(range(251)) * (3 * MAX_READ // 251)
BIG = TensorEntry("f", 0, len(DATA), sha256(DATA).hexdigest(), "U8", (len(DATA),))
SMALL = TensorEntry("f", 0, 100, sha256(DATA[:100]).hexdigest(), "U8", (100,))


def test_bytes_are_kept_once_those_before_them_are() -> None:
    async def main() -> None:
        store = MemoryStore()
        parts = Parts(store)
        assert await parts.of({"big": BIG}) == {}
        await parts.add(BIG, 1000, DATA[1000:2000])
        assert store.parts == {}
        await parts.add(BIG, 0, DATA[:1000])
        assert await Parts(store).of({"big": BIG}) == {"big": DATA[:2000]}

    run(main())


def test_the_next_visit_goes_on_where_the_last_one_was() -> None:
    async def main() -> None:
        store = MemoryStore()
        await store.put_part(BIG.sha256, 0, DATA[:500])
        parts = Parts(store)
        await parts.of({"big": BIG})
        await parts.add(BIG, 500, DATA[500:700])
        assert store.parts[BIG.sha256] == DATA[:700]

    run(main())


def test_a_tensor_of_one_read_has_no_parts() -> None:
    async def main() -> None:
        store = MemoryStore()
        await store.put_part(SMALL.sha256, 0, DATA[:50])
        assert await Parts(store).of({"small": SMALL}) == {}

    run(main())


def test_a_part_as_long_as_the_whole_or_of_a_wrong_whole_is_dropped() -> None:
    async def main() -> None:
        store = MemoryStore()
        await store.put_part(BIG.sha256, 0, b"\0" * len(DATA))
        parts = Parts(store)
        assert await parts.of({"big": BIG}) == {}
        assert store.parts[BIG.sha256] == b""
        await parts.add(BIG, 0, DATA[:10])
        await parts.drop([BIG])
        assert store.parts[BIG.sha256] == b""

    run(main())
