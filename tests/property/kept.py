"""Networks that once had a silent wrong map: by the seed they are drawn from, or made simple."""

from __future__ import annotations

from typing import Any

# Small maps whose channels were read as rows or columns, a class token as a position, a signal's features as its time,
# queries as a map, volumes and grids of tokens folded in a wrong way, one dict behind a wrapper; rows of few tokens that
# another grid explains as well, heat of rounding, a length that another layer's reading told; channels whose answers move as
# positions' by chance, a class of a field, the scores themselves as a layer's map.
SEEDS = (
    11000017, 11000022, 11000027, 11000028, 11000057, 11000082, 11000086, 11000100, 11000125, 11000143, 11000165, 11000171,
    11000174, 11000182, 11000190, 11000198, 12000048, 12000053, 12000106, 12000147, 12000182, 12000274, 12000292, 12000454,
    13000066, 13000074, 13000296, 101000072, 101000127, 102000258, 102000379, 102000430, 103000423, 104000034, 104000166,
    214000249, 215000203, 201000417, 202000152, 202000201, 202000401, 204000327, 209000030, 209000154, 210000079, 211000265,
    215000038, 216000180, 217000064, 219000419, 220000470, 301000011, 302000497,
    403000053, 501000413, 504000108, 506000290, 601000068, 601000091, 615000220, 811000491, 815000102,
)  # fmt: skip

KEPT: dict[str, dict[str, Any] | int] = {str(seed): seed for seed in SEEDS}
