import jax
import pytest
from jax.sharding import PartitionSpec as P

from skillrl import sharding
from skillrl.models import policy as models
from skillrl.models.config import VARIANTS, variant


def test_mesh_fills_the_free_axis():
    assert dict(sharding.make_mesh().shape) == {"data": 1, "fsdp": 8, "expert": 1, "context": 1, "tensor": 1}
    mesh = sharding.make_mesh({"fsdp": -1, "tensor": 2, "data": 2})
    assert (mesh.shape["fsdp"], mesh.shape["tensor"]) == (2, 2)
    assert sharding.batch_shards(mesh) == 4
    assert sharding.make_mesh({}, devices=jax.devices()[:1]).size == 1


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"fsdp": 3}, "does not divide 8 devices"),
        ({"fsdp": -1, "tensor": 3}, "does not divide 8 devices"),
        ({"fsdp": -1, "data": -1}, "at most one is -1"),
        ({"fsdp": 0}, "sizes are positive"),
        ({"model": 8}, r"unknown mesh axes \['model'\]"),
    ],
)
def test_bad_meshes_name_the_remedy(axes, message):
    with pytest.raises(sharding.ShardingError, match=message):
        sharding.make_mesh(axes)


@pytest.mark.deep
def test_slices_lie_along_the_data_axis():
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc("v5p:2x2x1", platform="tpu", num_slices=2).devices
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2}, devices)
    slices = [[device.slice_index for device in part.flat] for part in mesh.devices]
    assert slices == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(sharding.ShardingError, match="data must be a multiple of the 2 slices"):
        sharding.make_mesh({"fsdp": 8}, devices)


def test_a_mesh_that_does_not_divide_the_model_is_one_error(cfg):
    with pytest.raises(sharding.ShardingError, match=r"blocks\.k_DKH: kv_heads=2 does not divide over tensor=4"):
        models.param_shardings(cfg, sharding.make_mesh({"fsdp": 2, "tensor": 4}))


def test_spec_follows_the_table():
    assert sharding.spec("batch", None, "mlp") == P(("data", "fsdp", "expert"), None, ("tensor",))
    with pytest.raises(KeyError):
        sharding.spec("nonsense")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_has_axes_and_the_count_is_right(name):
    cfg = variant(name)
    shapes = models.abstract_params(cfg)
    jax.tree.map(
        lambda x, axes: sharding.spec(*axes) and len(axes) == len(x.shape) or 1 / 0, shapes, models.param_axes(cfg)
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == cfg.num_params


def test_parameters_are_made_in_their_place(cfg):
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    params = models.split(models.Policy.create(cfg, mesh, seed=0))
    assert params["blocks"]["gate_DF"].sharding.shard_shape((2, 16, 32)) == (2, 4, 16)
    assert params["blocks"]["q_norm_H"].is_fully_replicated
