"""One Ray for all cluster tests: starting it takes longer than most of them."""

import pytest

from irg_rl.cluster.ray_runtime import LocalRay, RaySettings


@pytest.fixture(scope="package")
def local_ray(tmp_path_factory):
    with LocalRay(RaySettings(num_cpus=4, object_store_mb=128), tmp_path_factory.mktemp("run")) as running:
        yield running
