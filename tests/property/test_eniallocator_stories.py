"""Short stories of faults and kills; `python -m tests.soak.books` tells long ones. A seed that fails is kept here."""

import logging

import pytest

from tests.box import virtual_time
from tests.soak.books import story


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_no_story_ends_badly(seed: int) -> None:
    """No double lease, nothing lost that was told, no ENI twice, nothing left behind."""
    logging.getLogger("aliyunsdkcore").setLevel(logging.CRITICAL)
    virtual_time.run(lambda: story(seed, 150))
