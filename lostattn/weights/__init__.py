"""What a layer does to what it is given, whatever it stores: quantised, adapted, offloaded, parametrised or plain."""

from lostattn.weights.linear_map import LinearMap, linear_map
from lostattn.weights.offload import with_weights

__all__ = ["LinearMap", "linear_map", "with_weights"]
