# ruff: noqa: UP006, UP035, UP045  (TorchScript compares against typing's classes)
"""se_e2_a with an energy fitting net: atomic energies from pair vectors, in TorchScript.

DeePMD-kit gives every atom as many rows as ``sel`` says and fills what is left with empty rows.
Empty rows count: after the mean is subtracted they are not zero. Here an atom has as many rows as
the atom with the most neighbours, and all its empty rows, which are equal, are added at once.
"""

from typing import List, Optional, Tuple

import torch

from alchemi_bridge.potentials._options import DTYPES
from alchemi_bridge.potentials.deepmd.definition import Definition
from alchemi_bridge.potentials.deepmd.environment import (
    environment_rows,
    nearest,
    ranks,
    restrict,
)
from alchemi_bridge.potentials.deepmd.nets import Net


class SeE2A(torch.nn.Module):
    """Atomic energies of an se_e2_a model, for training and for exported models.

    Parameters
    ----------
    definition
        Settings. Parameters are zero until :meth:`initialise` or loading; davg is zero and dstd one
        until statistics or loading.

    Attributes
    ----------
    davg, dstd
        (T, 4) mean and standard deviation of the rows of the environment matrix, for each type of
        central atom.
    fitting_bias, energy_bias
        (T,) eV, energies added for each type: in the precision of the fitting net, and in float64.
    """

    davg: torch.Tensor
    dstd: torch.Tensor
    fitting_bias: torch.Tensor
    energy_bias: torch.Tensor
    sel: torch.Tensor
    type_mask: torch.Tensor

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        n_types = definition.n_types
        self.n_types = n_types
        self.rcut = definition.rcut
        self.rcut_smth = definition.rcut_smth
        self.env_protection = definition.env_protection
        self.axis_neuron = definition.axis_neuron
        self.width = definition.neuron[-1]
        self.n_rows = sum(definition.sel)
        self.limits: List[int] = list(definition.sel)
        self.one_side = definition.type_one_side
        self.excludes = len(definition.exclude_types) > 0
        self.subtracts_vacuum: List[bool] = list(definition.subtracts_vacuum)
        self.dtype = DTYPES[definition.precision]
        self.fitting_dtype = DTYPES[definition.fitting_precision]

        # net of neighbours of type t (and central atoms of type i): number t (or t * T + i)
        self.embedding = torch.nn.ModuleList(
            Net(
                1,
                definition.neuron,
                0,
                activation=definition.activation,
                time_step=definition.resnet_dt,
                precision=definition.precision,
            )
            for _ in range(n_types if self.one_side else n_types**2)
        )
        self.fitting = torch.nn.ModuleList(
            Net(
                self.width * self.axis_neuron,
                definition.fitting_neuron,
                1,
                activation=definition.fitting_activation,
                time_step=definition.fitting_resnet_dt,
                precision=definition.fitting_precision,
            )
            for _ in range(n_types)
        )
        self.register_buffer("davg", torch.zeros(n_types, 4, dtype=self.dtype))
        self.register_buffer("dstd", torch.ones(n_types, 4, dtype=self.dtype))
        self.register_buffer("fitting_bias", torch.zeros(n_types, dtype=torch.float64))
        self.register_buffer("energy_bias", torch.zeros(n_types, dtype=torch.float64))
        self.register_buffer("sel", torch.tensor(definition.sel), persistent=False)
        mask = torch.ones(n_types, n_types, dtype=self.dtype)
        for one, other in definition.exclude_types:
            mask[one, other] = mask[other, one] = 0.0
        self.register_buffer("type_mask", mask.reshape(-1), persistent=False)

    def initialise(self, seed: int) -> None:
        """Draw all weights from DeePMD-kit's distributions (not its random numbers)."""
        generator = torch.Generator().manual_seed(seed)
        for net in [*self.embedding, *self.fitting]:
            net.initialise(generator)

    def forward(
        self,
        vectors: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        types: torch.Tensor,
        centers: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """Energies of atoms, with their graph to ``vectors`` and to the parameters.

        Parameters
        ----------
        vectors
            (P, 3) from the first to the second atom of each pair, Å; every pair within the cutoff,
            in both directions.
        first, second
            (P,) int64 atoms of the pairs.
        types
            (N,) int64, places in the type map.
        centers
            (C,) int64, different atoms whose energies are wanted; all if None.

        Returns
        -------
        torch.Tensor
            (N,) or (C,) float64, eV.
        """
        center_types = types
        row = first
        if centers is not None:
            center_types = types.index_select(0, centers)
            vectors, row, second = restrict(vectors, first, second, types.shape[0], centers)
        if center_types.shape[0] == 0:
            return torch.zeros(0, dtype=torch.float64, device=vectors.device)

        # central atoms of one type behind each other, so that each net has one slice to work on
        by_type = torch.argsort(center_types, stable=True)
        place = torch.empty_like(by_type)
        place[by_type] = torch.arange(len(by_type), device=types.device)
        center_types = center_types.index_select(0, by_type)
        row = place.index_select(0, row)

        moments, slices = self.moments(vectors, row, types.index_select(0, second), center_types)
        energies = self.fit(self.descriptor(moments), slices)
        energies = energies + self.energy_bias.index_select(0, center_types)
        return energies.index_select(0, place)

    def moments(
        self,
        vectors: torch.Tensor,
        row: torch.Tensor,
        neighbor_types: torch.Tensor,
        center_types: torch.Tensor,
    ) -> Tuple[torch.Tensor, List[int]]:
        """(C, 4, M) products of environment matrix and embedding, over the number of rows.

        ``center_types`` ascends; also returned are the T + 1 places where its slices begin and end.
        """
        n_centers = center_types.shape[0]
        n_types = self.n_types
        group = neighbor_types * n_centers + row
        order, rank, counts = ranks(group, n_types * n_centers)
        most, sizes, slices = self.sizes(counts, center_types)
        if self.too_many(most):
            kept = nearest(vectors, row, neighbor_types, n_centers, self.sel)
            vectors, row = vectors.index_select(0, kept), row.index_select(0, kept)
            neighbor_types = neighbor_types.index_select(0, kept)
            group = neighbor_types * n_centers + row
            order, rank, counts = ranks(group, n_types * n_centers)
            most, sizes, slices = self.sizes(counts, center_types)

        row = row.index_select(0, order)
        centers = center_types.index_select(0, row)
        rows = environment_rows(
            vectors.index_select(0, order).to(self.dtype),
            self.rcut_smth,
            self.rcut,
            self.env_protection,
        )
        rows = (rows - self.davg.index_select(0, centers)) / self.dstd.index_select(0, centers)
        if self.excludes:
            pair = centers * n_types + neighbor_types.index_select(0, order)
            rows = rows * self.type_mask.index_select(0, pair).unsqueeze(1)

        total = torch.zeros((n_centers, 4, self.width), dtype=self.dtype, device=rows.device)
        counts = counts.reshape(n_types, n_centers)
        empty = -self.davg / self.dstd
        start = 0
        for t in range(n_types):
            if most[t] > 0:
                stop = start + sizes[t]
                place = row[start:stop] * most[t] + rank[start:stop]
                grid = torch.zeros((n_centers * most[t], 4), dtype=self.dtype, device=rows.device)
                grid = grid.index_copy(0, place, rows[start:stop])
                total = total + self.products(grid.reshape(n_centers, most[t], 4), t, slices)
                start = stop
            n_empty = (self.limits[t] - counts[t]).to(self.dtype)
            ones = self.empty_products(empty, t).index_select(0, center_types)
            total = total + n_empty.reshape(-1, 1, 1) * ones
        return total / self.n_rows, slices

    def sizes(
        self, counts: torch.Tensor, center_types: torch.Tensor
    ) -> Tuple[List[int], List[int], List[int]]:
        """Sizes that the host needs, in one read from the device.

        Returns the largest number of neighbours of each type, the numbers of pairs with each type
        of neighbour, and the places where the slices of the central atoms begin and end.
        """
        grid = counts.reshape(self.n_types, -1)
        here = torch.arange(self.n_types, device=counts.device).unsqueeze(1) == center_types
        read: List[int] = torch.cat([grid.amax(dim=1), grid.sum(dim=1), here.sum(dim=1)]).tolist()
        slices: List[int] = [0]
        for n in read[2 * self.n_types :]:
            slices.append(slices[-1] + n)
        return read[: self.n_types], read[self.n_types : 2 * self.n_types], slices

    def too_many(self, most: List[int]) -> bool:
        """Whether an atom has more neighbours of some type than the model takes."""
        found = False
        for t, limit in enumerate(self.limits):
            found = found or most[t] > limit
        return found

    def products(self, grid: torch.Tensor, t: int, slices: List[int]) -> torch.Tensor:
        """(C, 4, M) sums over the rows of (C, K, 4) environment matrices, neighbours of type t."""
        if self.one_side:
            for number, net in enumerate(self.embedding):
                if number == t:
                    return torch.matmul(grid.transpose(1, 2), net(grid[:, :, :1]))
        parts: List[torch.Tensor] = []
        for number, net in enumerate(self.embedding):
            i = number - t * self.n_types
            if i >= 0 and i < self.n_types:
                part = grid[slices[i] : slices[i + 1]]
                parts.append(torch.matmul(part.transpose(1, 2), net(part[:, :, :1])))
        return torch.cat(parts)

    def empty_products(self, empty: torch.Tensor, t: int) -> torch.Tensor:
        """(T, 4, M) products of one empty row, for each type of central atom."""
        parts: List[torch.Tensor] = []
        for number, net in enumerate(self.embedding):
            if self.one_side:
                if number == t:
                    parts.append(net(empty[:, :1]))
            else:
                i = number - t * self.n_types
                if i >= 0 and i < self.n_types:
                    parts.append(net(empty[i : i + 1, :1]))
        return empty.unsqueeze(2) * torch.cat(parts).unsqueeze(1)

    def descriptor(self, moments: torch.Tensor) -> torch.Tensor:
        """(C, M * axis_neuron) invariants from (C, 4, M) products."""
        axis = moments[:, :, : self.axis_neuron]
        return torch.matmul(moments.transpose(1, 2), axis).reshape(moments.shape[0], -1)

    def fit(self, descriptor: torch.Tensor, slices: List[int]) -> torch.Tensor:
        """(C,) float64 energies without the bias of the data, eV."""
        x = descriptor.to(self.fitting_dtype)
        parts: List[torch.Tensor] = []
        for t, net in enumerate(self.fitting):
            part = x[slices[t] : slices[t + 1]]
            y = net(part)
            if self.subtracts_vacuum[t]:
                y = y - net(torch.zeros_like(x[:1]))
            parts.append(y.squeeze(1) + self.fitting_bias[t].to(y.dtype))
        return torch.cat(parts).to(torch.float64)
