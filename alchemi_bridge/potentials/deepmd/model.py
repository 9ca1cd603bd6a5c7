# ruff: noqa: UP006, UP035, UP045  (TorchScript compares against typing's classes)
"""se_e2_a with an energy fitting net: atomic energies from pair vectors, in TorchScript.

DeePMD-kit gives every atom as many rows as ``sel`` says and fills what is left with empty rows.
Empty rows count: after the mean is subtracted they are not zero. Here an atom has as many rows as
the atom with the most neighbours, and all its empty rows, which are equal, are added at once.

The embedding nets are the costly part. They see a distance only, so that both directions of a pair
of equal types have the same result; it is computed once.
"""

from typing import List, Optional, Tuple

import torch

from alchemi_bridge.potentials._options import DTYPES
from alchemi_bridge.potentials.deepmd.definition import Definition
from alchemi_bridge.potentials.deepmd.environment import (
    environment_rows,
    nearest,
    nothing,
    ranks,
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
            (P, 3) from the first to the second atom of each pair, Å; every pair within the cutoff
            once, in either direction.
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
        by_type = types if centers is None else types.index_select(0, centers)
        if by_type.shape[0] == 0:
            return torch.zeros(0, dtype=torch.float64, device=vectors.device) + nothing(vectors)
        # central atoms of one type behind each other, so that each net has one slice to work on
        by_type = torch.argsort(by_type, stable=True)
        chosen = by_type if centers is None else centers.index_select(0, by_type)
        here = torch.arange(chosen.shape[0], dtype=torch.int64, device=types.device)
        place = torch.full_like(types, -1).index_copy(0, chosen, here)

        moments, slices = self.moments(vectors, first, second, types, place, chosen)
        energies = self.fit(self.descriptor(moments), slices)
        energies = energies + self.energy_bias.index_select(0, types.index_select(0, chosen))
        if centers is None:
            return energies.index_select(0, place)
        return energies.index_select(0, place.index_select(0, centers))

    def moments(
        self,
        vectors: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        types: torch.Tensor,
        place: torch.Tensor,
        centers: torch.Tensor,
    ) -> Tuple[torch.Tensor, List[int]]:
        """(C, 4, M) products of environment matrix and embedding, over the number of rows.

        ``centers`` are (C,) atoms, by type, ``place`` is the place of each atom among them or -1.
        Also returned are the T + 1 places where the slices of one type begin and end.
        """
        n_types, n_centers = self.n_types, centers.shape[0]
        # both directions of every pair
        row = place.index_select(0, torch.cat([first, second]))
        first_type, second_type = types.index_select(0, first), types.index_select(0, second)
        center_type = torch.cat([first_type, second_type])
        neighbor_type = torch.cat([second_type, first_type])
        rows = self.rows(vectors, center_type, neighbor_type)
        number, used = self.distinct(first_type, second_type)
        net = neighbor_type.index_select(0, used)
        if not self.one_side:
            net = net * n_types + center_type.index_select(0, used)

        kept = (row >= 0).nonzero().squeeze(1)
        counts = self.count(row, neighbor_type, kept, n_centers)
        per_net = torch.bincount(net, minlength=len(self.embedding))
        per_type = torch.bincount(types.index_select(0, centers), minlength=n_types)
        # sizes that the host needs; reading them waits for the device
        read: List[int] = torch.cat(
            [counts.amax(dim=0), counts.sum(dim=1).amax().reshape(1), per_type, per_net]
        ).tolist()
        width = read[n_types]
        if self.too_many(read[:n_types]):
            kept = kept.index_select(
                0,
                nearest(
                    torch.cat([vectors, -vectors]).index_select(0, kept),
                    row.index_select(0, kept),
                    neighbor_type.index_select(0, kept),
                    n_centers,
                    self.sel,
                ),
            )
            counts = self.count(row, neighbor_type, kept, n_centers)
            width = min(width, self.n_rows)
        slices: List[int] = [0]
        for n in read[n_types + 1 : 2 * n_types + 1]:
            slices.append(slices[-1] + n)

        total = self.empty_rows(counts, types.index_select(0, centers))
        if width > 0:
            embedded, order = self.embed(
                rows.index_select(0, used)[:, :1], net, read[2 * n_types + 1 :]
            )
            number = order.index_select(0, number).index_select(0, kept)
            row, rows = row.index_select(0, kept), rows.index_select(0, kept)
            total = total + self.products(rows, embedded, row, number, n_centers, width)
        else:
            total = total + nothing(vectors).to(self.dtype)
        return total / self.n_rows, slices

    def products(
        self,
        rows: torch.Tensor,
        embedded: torch.Tensor,
        row: torch.Tensor,
        number: torch.Tensor,
        n_centers: int,
        width: int,
    ) -> torch.Tensor:
        """(C, 4, M) sums of rows times embeddings over the neighbours of each central atom.

        ``row`` is the central atom of each of the ``rows``, ``number`` the place of its embedding,
        ``width`` the largest number of neighbours.
        """
        order, rank, _ = ranks(row, n_centers)
        slot = row.index_select(0, order) * width + rank
        grid = torch.zeros((n_centers * width, 4), dtype=self.dtype, device=rows.device)
        grid = grid.index_copy(0, slot, rows.index_select(0, order))
        # an empty slot may point anywhere: its row in the grid is zero
        index = torch.zeros(n_centers * width, dtype=torch.int64, device=rows.device)
        index = index.index_copy(0, slot, number.index_select(0, order))
        factors = embedded.index_select(0, index).reshape(n_centers, width, self.width)
        return torch.bmm(grid.reshape(n_centers, width, 4).transpose(1, 2), factors)

    def empty_rows(self, counts: torch.Tensor, center_types: torch.Tensor) -> torch.Tensor:
        """(C, 4, M) what the empty rows add, of atoms with (C, T) ``counts`` of neighbours."""
        empty = -self.davg / self.dstd
        shape = (center_types.shape[0], 4, self.width)
        total = torch.zeros(shape, dtype=self.dtype, device=empty.device)
        for t in range(self.n_types):
            n_empty = (self.limits[t] - counts[:, t]).to(self.dtype).reshape(-1, 1, 1)
            total = total + n_empty * self.empty_products(empty, t).index_select(0, center_types)
        return total

    def rows(
        self, vectors: torch.Tensor, center_type: torch.Tensor, neighbor_type: torch.Tensor
    ) -> torch.Tensor:
        """(2 P, 4) rows of the environment matrix, mean and deviation taken out.

        Of (P, 3) ``vectors`` in both directions; the types are (2 P,).
        """
        rows = environment_rows(
            vectors.to(self.dtype), self.rcut_smth, self.rcut, self.env_protection
        )
        # the other direction has the same distance, and the opposite vector
        rows = torch.cat([rows, torch.cat([rows[:, :1], -rows[:, 1:]], dim=1)])
        rows = rows - self.davg.index_select(0, center_type)
        rows = rows / self.dstd.index_select(0, center_type)
        if self.excludes:
            pair = center_type * self.n_types + neighbor_type
            rows = rows * self.type_mask.index_select(0, pair).unsqueeze(1)
        return rows

    def distinct(
        self, first_type: torch.Tensor, second_type: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Directions of pairs with an embedding of their own.

        Returns the number of each direction's embedding, and the directions of the embeddings.
        """
        forward = torch.arange(first_type.shape[0], dtype=torch.int64, device=first_type.device)
        if self.n_types == 1:
            return torch.cat([forward, forward]), forward
        other = first_type != second_type
        backward = forward.shape[0] + other.cumsum(0) - 1
        number = torch.cat([forward, torch.where(other, backward, forward)])
        used = torch.cat([forward, forward.shape[0] + other.nonzero().squeeze(1)])
        return number, used

    def count(
        self, row: torch.Tensor, neighbor_type: torch.Tensor, kept: torch.Tensor, n_centers: int
    ) -> torch.Tensor:
        """(C, T) numbers of neighbours of each type."""
        group = row.index_select(0, kept) * self.n_types + neighbor_type.index_select(0, kept)
        counts = torch.bincount(group, minlength=n_centers * self.n_types)
        return counts.reshape(n_centers, self.n_types)

    def too_many(self, most: List[int]) -> bool:
        """Whether an atom has more neighbours of some type than the model takes."""
        found = False
        for t, limit in enumerate(self.limits):
            found = found or most[t] > limit
        return found

    def embed(
        self, s: torch.Tensor, net: torch.Tensor, sizes: List[int]
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """(Q, M) embeddings of (Q, 1) distances, sorted by net, and the place of each.

        ``sizes`` are the numbers of distances for each net.
        """
        order = torch.argsort(net, stable=True)
        s = s.index_select(0, order)
        parts: List[torch.Tensor] = []
        start = 0
        for number, one in enumerate(self.embedding):
            if sizes[number] > 0:
                parts.append(one(s[start : start + sizes[number]]))
                start += sizes[number]
        places = torch.arange(order.shape[0], dtype=torch.int64, device=order.device)
        return torch.cat(parts), torch.empty_like(order).index_copy(0, order, places)

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
