"""One nursery and one small world for all that is disturbed here; and the full count, which goes on where it ended."""

import json
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from counting import FULL, Count
from harness import Nursery, World
from runs import PHI, small_world


def pytest_configure(config: pytest.Config) -> None:
    if FULL:
        config.pluginmanager.register(Count())


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with small_world(tmp_path_factory.mktemp("faults")) as folder:
        # Dropout: who loses the random states gets other weights
        (folder / "phi.json").write_text(json.dumps(PHI | {"resid_pdrop": 0.1, "embd_pdrop": 0.1}))
        nursery = Nursery(folder)
        yield World(folder, nursery)
        nursery.close()


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[Counter[str]], None]:
    """What a case injected: how often what."""
    return lambda fell: record_property("fell", dict(fell))
