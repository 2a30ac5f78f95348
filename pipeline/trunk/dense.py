"""Dense trunks: convolutions run once per rescaled picture, and rows are read off the maps at the windows' positions.

Source: Oquab et al. (CVPR 2014) section 5, which suggests it for speed. A window's row differs from its row as a
patch in two ways. Its position is rounded to a cell of the map. It is surrounded by the picture, and not by the zeros
that pad a patch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.io.errors import SettingsError, TrunkError
from pipeline.trunk.backends import Backend
from pipeline.trunk.dense_maps import AlexNetMaps, GraphMaps, Maps
from pipeline.trunk.dense_tokens import TokenMaps
from pipeline.trunk.device_memory import explain_memory
from pipeline.trunk.nodes import NodesNetwork
from pipeline.trunk.pending_batch import PendingBatch
from pipeline.trunk.runner import Measure, TrunkRunner, ignore_time
from pipeline.trunk.trunk import LayeredNetwork, Trunk
from pipeline.trunk.windows import ScaledWindows


class DenseRunner(TrunkRunner):
    """A frozen trunk on its device, run over rescaled pictures in place of patches.

    Raises
    ------
    SettingsError, TrunkError
        As `TrunkRunner`; `compiled` is set, which needs inputs of one size; the trunk has no maps.
    """

    def __init__(
        self,
        trunk: Trunk,
        device: torch.device,
        precision: str,
        compiled: bool = False,
        backend: Backend = "torch",
        *,
        elsewhere: bool = False,
    ) -> None:
        if compiled:
            raise SettingsError("method dense: pictures are of any size, and a compiled trunk takes one; leave one off")
        self.maps: Maps = _find_maps(trunk)
        super().__init__(trunk, device, precision, backend=backend, elsewhere=elsewhere)
        self.window_fields = {"method": "dense", **self.maps.fields}

    def _place_network(self) -> nn.Module:
        if self.backend == "openvino":
            self.maps.use_openvino(self.precision, self.dtype)
            return self.trunk.network
        network = super()._place_network()
        self.maps.place(self.device, self.dtype)
        return network

    @property
    def batch_rows(self) -> int:
        """Default number of windows per batch of FC6 and FC7: many, since each batch reads their weights anew."""
        return 512

    @torch.inference_mode()
    def read_windows(self, pixels: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Run the convolutions over one rescaled picture, and read off one vector per window, for `finish`.

        Parameters
        ----------
        pixels, x, y : as in `ScaledWindows`; each side of the picture has `input_px` pixels at least

        Returns
        -------
        Tensor of shape (n, columns)
        """
        what = f"the maps of a rescaled picture of {pixels.shape[1]} x {pixels.shape[0]} pixels"
        with explain_memory(self.device, what, "use --method patches, or leave out the smallest windows"):
            return self.maps.read(pixels, x, y, self._inputs)

    @torch.inference_mode()
    def finish(self, vectors: Tensor, layers: Sequence[str]) -> PendingBatch:
        """Start to compute the rows of each layer from the windows' vectors: float16 of shape (n, width)."""
        with explain_memory(self.device, f"a batch of {len(vectors)} windows"):
            return self._copy_to_cpu(self.maps.finish(vectors, layers))

    def launch_batches(
        self,
        windows: Iterable[ScaledWindows],
        layers: Sequence[str],
        batch: int,
        measure: Measure = ignore_time,
    ) -> Iterator[PendingBatch]:
        """As `TrunkRunner.launch_batches`: maps of each rescaled picture, and batches of the vectors of all windows.

        Parameters
        ----------
        measure : takes the time of the stages ``maps`` and ``rows``
        """
        vectors: list[Tensor] = []
        waiting = 0
        what = f"a batch of {batch} windows"
        for pixels, x, y in windows:
            with measure("maps"):
                vectors.append(self.read_windows(pixels, x, y))
            waiting += len(x)
            if waiting >= batch:
                with explain_memory(self.device, what):
                    joined = torch.cat(vectors)
                for ready in joined[: waiting - waiting % batch].split(batch):
                    with measure("rows"):
                        pending = self.finish(ready, layers)
                    yield pending
                waiting %= batch
                vectors = [joined[len(joined) - waiting :]]
        if waiting:
            with explain_memory(self.device, what):
                joined = torch.cat(vectors)
                whole = torch.cat([joined, joined.new_zeros(batch - waiting, joined.shape[1])])
            with measure("rows"):
                pending = self.finish(whole, layers)
            yield pending.first(waiting)

    def rows_are_independent(self, batch: int) -> bool:
        """See `TrunkRunner`; of the layers per window, since maps are computed per picture."""
        if self.elsewhere:
            return False
        px, corner = self.trunk.card.input_px, np.zeros(1, int)
        pixels = np.random.default_rng(0).integers(0, 256, (8, px, px, 3), np.uint8)
        windows = self.load_windows([(picture, corner, corner) for picture in pixels])
        few = torch.cat([self.read_windows(*of_picture) for of_picture in windows])
        vectors = few.new_zeros((batch, few.shape[1]))
        n = min(batch, len(few))
        first, last = vectors.clone(), vectors.clone()
        first[:n], last[batch - n :] = few[:n], few[:n]
        (a,), (b,) = (self.finish(x, (self.trunk.layer,)).result().values() for x in (first, last))
        return np.array_equal(a[:n], b[batch - n :])

    def operations_per_row(self, trunk: Trunk) -> None:
        """Count nothing: maps are made per picture, however many windows it has."""
        return None

    def measure_rate(self, n_rows: int) -> None:
        """Measure nothing: the rate depends on the sizes of pictures and scales."""
        return None


def _find_maps(trunk: Trunk) -> Maps:
    """Find how a trunk's rows can be read off maps.

    Raises
    ------
    TrunkError
        They cannot; the reason is named.
    """
    if isinstance(trunk.network, LayeredNetwork):
        return AlexNetMaps(trunk.network.network)
    why = "it has no maps"
    if isinstance(trunk.network, NodesNetwork):
        try:
            return GraphMaps(trunk) if trunk.resize is None else TokenMaps(trunk)
        except TrunkError as error:
            why = str(error)
    raise TrunkError(f"trunk {trunk.card.name!r}: method dense: {why}; use method patches")
