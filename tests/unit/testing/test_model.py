from kwaainet.formats.manifest import verify
from kwaainet.formats.weights import Weight
from kwaainet.testing.model import FILE, TINY, random_model


def test_the_manifest_describes_the_file() -> None:
    manifest, files = random_model()
    for name, entry in manifest.tensors.items():
        data = verify(name, entry, files[FILE][entry.offset : entry.offset + entry.length])
        assert Weight.stored(entry, data).floats(TINY).shape == TINY.tensor_shapes()[name]


def test_the_seed_decides() -> None:
    assert random_model(seed=1)[1] == random_model(seed=1)[1]
    assert random_model(seed=1)[1] != random_model(seed=2)[1]
