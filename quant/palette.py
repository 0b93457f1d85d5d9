"""Few values for many: a palette of vectors by k-means, and the levels of a scalar codebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PAIRS = 1 << 20  # Distances held at once: 4 MB, which caches keep.
MIN_CUT, CUT_STEPS, PROBES = 4096, 3, 16  # Of palettes that are searched by cells.
STRIP = 1 << 16  # Rows of which copies are made at once.
POOL = 2  # Vectors an entry among which the first palette is sought.
LARGEST = 1e15  # Beyond it squares of float32 leave their range.
LEAST_MASS = 1e-30  # Of an entry that has vectors at all.
BY_MASS = (0.05, 0.2)  # Shares of the levels that follow the mass of values, the rest being even.
MASS_CELLS = 8192
LLOYD_STEPS = 50
EVEN = 0.2  # Share of levels that lie evenly, whatever the weights.
RANGE_STEP, RANGE_STEPS = 0.85, 64


def fit_palette(
    x: Tensor,
    size: int,
    *,
    weights: Tensor | None = None,
    iterations: int = 1,
    seed: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """A palette [K, D] float32 for vectors x [M, D], K <= size; if it is exact, indices [M] int64.

    Where there are no more than `size` different vectors they are the palette, and the indices say
    which one each is. Else there are none (`nearest` finds them), and the palette begins with the
    vectors themselves (a random sample, where there are more than twice `size`), the nearest ones
    merged until `size` are left: with few vectors an entry that beats Lloyd's iterations from a
    random start many times over. `iterations` of Lloyd's follow. With `weights` [M], above 0,
    errors count that much, the vectors that begin are drawn by weight, and what merges is what
    costs least (Ward 1963).

    Distances are float32 and need a few MB at a time. A function of the arguments and the seed (on
    one machine and number of threads). Raises ValueError for values that are not finite and for
    a size below 1.
    """
    if x.ndim != 2 or size < 1 or iterations < 0:
        raise ValueError(
            f"x, size, iterations: expected [M, D], at least 1 and at least 0, "
            f"got {list(x.shape)}, {size} and {iterations}"
        )
    x = x.detach().float()
    most = float(x.abs().max()) if x.numel() else 0.0
    if not np.isfinite(most):
        raise ValueError("x: expected finite values, got others")
    first, inverse, counts = _distinct(x)
    if len(first) <= size:
        return x[first], inverse
    scale = 2.0 ** np.ceil(np.log2(most / LARGEST)) if most > LARGEST else 1.0
    rows = x if len(first) == len(x) and scale == 1 else x[first] / scale
    if weights is None:
        weights, start = counts.float(), _sample(rows, POOL * size, seed)
        palette = _merged(start, torch.ones(len(start)), size)
    else:
        weights = _mass(len(first), inverse, weights.detach().float())
        drawn = _drawn(weights, POOL * size, seed)
        palette = _merged(rows[drawn], weights[drawn], size)
    for _ in range(iterations):
        palette = _moved(rows, weights, palette, nearest(rows, palette))
    return palette * scale, None


def nearest(x: Tensor, palette: Tensor, *, skip_self: bool = False) -> Tensor:
    """[M] int64, the entry of the palette [K, D] nearest to each vector [M, D], by float32 L2.

    With `skip_self`, where the palette is x itself, the nearest other one. Palettes of 4096 and
    more entries are searched in the `PROBES` of their cells that are nearest to the vector: some
    in a thousand then get an entry that is hardly farther than the nearest.
    """
    if len(x) and len(palette) <= skip_self:
        raise ValueError(f"palette: expected entries for {len(x)} vectors, got {len(palette)}")
    if not len(x):
        return torch.zeros(0, dtype=torch.int64)
    cells = _Cells.cut(palette)
    own = torch.arange(len(x)) if skip_self else torch.full((len(x),), -1)
    strips = zip(x.split(STRIP), own.split(STRIP), strict=True)
    return torch.cat([cells.search(rows, theirs) for rows, theirs in strips])


@dataclass(frozen=True)
class _Cells:
    """A palette cut into cells around centres (an inverted file: Jégou et al. 2011).

    Attributes:
        centres: [G, D]; probes: cells looked into for each vector.
        order: [K] the entries, cell by cell; places: [K] its inverse; bounds: [G + 1] of cells.
        parts: for each cell its entries [D, n], and halves: half their squared norms [n].
    """

    centres: Tensor
    probes: int
    order: Tensor
    places: Tensor
    bounds: list[int]
    parts: list[Tensor]
    halves: list[Tensor]

    @staticmethod
    def cut(palette: Tensor) -> _Cells:
        count = 1 if len(palette) < MIN_CUT else 1 << (len(palette).bit_length() - 1) // 2
        centres = palette[:: -(-len(palette) // count)].clone()
        owner = torch.zeros(len(palette), dtype=torch.int64)
        for _ in range(CUT_STEPS if count > 1 else 0):
            owner = nearest(palette, centres)
            centres = _moved(palette, torch.ones(len(palette)), centres, owner)
        order = owner.argsort(stable=True)
        sizes = owner.bincount(minlength=len(centres)).tolist()
        parts = [part.T.contiguous() for part in palette[order].split(sizes)]
        return _Cells(
            centres=centres,
            probes=min(PROBES, len(centres)),
            order=order,
            places=order.argsort(),
            bounds=[0, *np.cumsum(sizes).tolist()],
            parts=parts,
            halves=[0.5 * part.square().sum(0) for part in parts],
        )

    def search(self, x: Tensor, own: Tensor) -> Tensor:
        """The nearest entry to each of x [m, D], but for entry own [m] (-1 for none)."""
        best, found = torch.full((len(x),), torch.inf), torch.zeros(len(x), dtype=torch.int64)
        home = torch.where(own < 0, -1, self.places[own])
        for cell, rows in self._probed(x):
            low, part, half = self.bounds[cell], self.parts[cell], self.halves[cell]
            for some in rows.split(max(1, PAIRS // len(half))):
                distances = torch.addmm(half, x[some], part, alpha=-1)
                column = home[some] - low
                inside = ((column >= 0) & (column < len(half))).nonzero()[:, 0]
                distances[inside, column[inside]] = torch.inf
                least, index = distances.min(1)
                better = least < best[some]
                chosen = some[better]
                best[chosen], found[chosen] = least[better], self.order[low + index[better]]
        lost = best.isinf().nonzero()[:, 0]
        if len(lost) and self.probes < len(self.centres):  # Alone in its cells: look everywhere.
            found[lost] = replace(self, probes=len(self.centres)).search(x[lost], own[lost])
        return found

    def _probed(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Cells that are not empty, each with the vectors that look into it."""
        if len(self.centres) == 1:
            yield 0, torch.arange(len(x))
            return
        half = 0.5 * self.centres.square().sum(1)
        distances = torch.addmm(half, x, self.centres.T, alpha=-1)
        cells = distances.topk(self.probes, dim=1, largest=False).indices.flatten()
        rows = cells.argsort(stable=True) // self.probes
        sizes = cells.bincount(minlength=len(self.centres)).tolist()
        for cell, looking in enumerate(rows.split(sizes)):
            if len(looking) and len(self.halves[cell]):
                yield cell, looking


def _distinct(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where each different row occurs first (ascending), which one each row is, how often."""
    rows = np.ascontiguousarray(x.numpy() + np.float32(0))  # -0 and 0 are one value.
    rng = np.random.default_rng(0)
    keys = np.zeros(len(rows), np.uint64)
    with np.errstate(over="ignore"):  # A hash: products modulo 2^64.
        for column in rows.view(np.uint32).T:
            keys = (keys ^ column) * (rng.integers(1 << 63, dtype=np.uint64) * np.uint64(2) + 1)
            keys ^= keys >> np.uint64(32)
    _, first, inverse, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    if not _same(rows, first, inverse):  # Two rows of one key, once in 10^8 large models.
        _, first, inverse, counts = np.unique(
            rows, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return (
        torch.from_numpy(first[order]),
        torch.from_numpy(rank[inverse.reshape(-1)]),
        torch.from_numpy(counts[order]),
    )


def _same(rows: NDArray, first: NDArray, inverse: NDArray) -> bool:
    strips = (slice(start, start + STRIP) for start in range(0, len(rows), STRIP))
    return all(np.array_equal(rows[s], rows[first[inverse[s]]]) for s in strips)


def _sample(x: Tensor, count: int, seed: int) -> Tensor:
    if len(x) <= count:
        return x
    rng = torch.Generator().manual_seed(seed)
    return x[torch.randperm(len(x), generator=rng)[:count].sort().values]


def _drawn(weights: Tensor, count: int, seed: int) -> Tensor:
    """[<= count] rows, ascending, drawn by weight without return (Efraimidis & Spirakis 2006)."""
    if len(weights) <= count:
        return torch.arange(len(weights))
    rng = torch.Generator().manual_seed(seed)
    keys = torch.rand(len(weights), generator=rng, dtype=torch.float64).log() / weights.double()
    return keys.topk(count).indices.sort().values


def _merged(x: Tensor, weights: Tensor, size: int) -> Tensor:
    """At most `size` of M > size different vectors: the means of trees of cheapest edges.

    Each vector's edge goes to its nearest other one; edges are taken from the cheapest on, until
    as few trees are left (Kruskal), or all are taken: then trees are merged again.
    """
    while len(x) > size:
        other = nearest(x, x, skip_self=True)
        lengths = (x - x[other]).square().sum(1)
        lengths *= weights * weights[other] / (weights + weights[other])
        trees = _forest(other.tolist(), torch.argsort(lengths, stable=True).tolist(), size)
        merged = torch.zeros(int(trees.max()) + 1, x.shape[1])
        mass = _mass(len(merged), trees, weights)
        x, weights = _moved(x, weights, merged, trees), mass
    return x


def _forest(other: list[int], order: list[int], size: int) -> Tensor:
    """[M] int64 trees, numbered, once edges i to other[i] joined vectors in this order."""
    parent, left = list(range(len(other))), len(other)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i in order:
        if left <= size:
            break
        a, b = root(i), root(other[i])
        if a != b:
            parent[b] = a
            left -= 1
    roots = [root(i) for i in range(len(other))]
    return torch.from_numpy(np.unique(roots, return_inverse=True)[1].astype(np.int64))


def _mass(size: int, indices: Tensor, weights: Tensor) -> Tensor:
    return torch.zeros(size).index_add_(0, indices, weights)


def _moved(x: Tensor, weights: Tensor, palette: Tensor, indices: Tensor) -> Tensor:
    """Each entry at the mean of its vectors; one that has none goes to a vector served badly."""
    mass = _mass(len(palette), indices, weights)
    sums = torch.zeros_like(palette)
    for start in range(0, len(x), STRIP):
        s = slice(start, start + STRIP)
        sums.index_add_(0, indices[s], x[s] * weights[s, None])
    moved = sums / mass.clamp_min(LEAST_MASS)[:, None]
    empty = (mass == 0).nonzero()[:, 0]
    if len(empty):
        strips = [slice(start, start + STRIP) for start in range(0, len(x), STRIP)]
        errors = torch.cat([(x[s] - moved[indices[s]]).square().sum(1) for s in strips])
        worst = (errors * weights).topk(min(len(empty), len(x))).indices
        moved[empty[: len(worst)]] = x[worst]
    return moved


# Levels


def fit_levels(
    values: NDArray[np.float32], tolerance: float, count: int = 256
) -> NDArray[np.float32]:
    """Levels [L] float32, ascending and different, L <= count, for values of any shape.

    Where there are no more than `count` different values they are the levels. Else levels lie as
    evenly as a root mean square error of `tolerance` allows (for a given error even levels have the
    least entropy: Gish & Pierce 1968), moved to the means of their cells; where nothing even is
    good enough, at the least error that Lloyd's iterations find.
    """
    x = np.sort(np.asarray(values, np.float64), axis=None)
    distinct = x[np.concatenate([[True], np.diff(x) > 0])] if len(x) else x
    if len(distinct) <= count:
        return distinct.astype(np.float32)
    cells = x[np.linspace(0, len(x) - 1, MASS_CELLS + 1).astype(np.int64)]
    width = np.diff(cells)
    for share in BY_MASS:
        levels = _centred(x, _spread(cells, width, share, count))
        if _error(x, levels) <= tolerance:
            return np.unique(levels.astype(np.float32))
    # Panter & Dite 1951: density to the 1/3; by mass as well, or one outlier would take all levels.
    levels = _spread(cells, width ** (2 / 3), 0.2, count)
    for _ in range(LLOYD_STEPS):
        levels = _centred(x, levels)
    return np.unique(levels.astype(np.float32))


def fit_weighted_levels(
    values: NDArray[np.float32], weights: NDArray[np.floating], count: int = 256
) -> NDArray[np.float32]:
    """Levels [L] float32, ascending and different, L <= count, of least weighted squared error.

    Values and weights have one shape; a fifth of the levels lies evenly, so that values of little
    weight have some too. From density to the 1/3 (Panter & Dite 1951) by Lloyd's iterations.
    """
    order = np.argsort(values, axis=None, kind="stable")
    x, w = values.reshape(-1)[order].astype(np.float64), weights.reshape(-1)[order]
    distinct = x[np.concatenate([[True], np.diff(x) > 0])] if len(x) else x
    if len(distinct) <= count:
        return distinct.astype(np.float32)
    mass = np.concatenate([[0.0], np.cumsum(w, dtype=np.float64)])
    moment = np.concatenate([[0.0], np.cumsum(w * x)])
    cells = np.linspace(x[0], x[-1], MASS_CELLS + 1)
    density = np.cbrt(np.diff(np.interp(cells, x, mass[1:])))
    levels = _spread(cells, density, EVEN, count)
    for _ in range(LLOYD_STEPS):
        edges = _edges(x, levels)
        number = np.diff(mass[edges])
        used = number > LEAST_MASS
        levels[used] = np.diff(moment[edges])[used] / number[used]
        levels = np.sort(levels)
    return np.unique(levels.astype(np.float32))


def even_levels(
    values: NDArray[np.float32], weights: NDArray[np.floating], count: int
) -> NDArray[np.float32]:
    """An odd number <= count of levels [L] float32, evenly around 0, 0 being one of them.

    They reach as far as makes the weighted squared error least, what is cut off included.
    """
    half = max((count - 1) // 2, 1)
    size = np.abs(values.astype(np.float64)).reshape(-1)
    w = np.broadcast_to(weights, values.shape).reshape(-1)
    most = float(size.max()) if len(size) else 0.0
    if not most:
        return np.zeros(1, np.float32)
    reaches = most * RANGE_STEP ** np.arange(RANGE_STEPS)
    total = float(w.sum())
    errors = []
    for reach in reaches:
        beyond = size > reach
        cut = float((w[beyond] * np.square(size[beyond] - reach)).sum())
        errors.append(cut + total * (reach / half) ** 2 / 12)
    reach = reaches[int(np.argmin(errors))]
    return np.unique((np.arange(-half, half + 1) / half * reach).astype(np.float32))


def level_indices(values: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest of the ascending levels [L] to each value, in the shape of `values`."""
    exact = levels.astype(np.float64)
    return np.searchsorted((exact[1:] + exact[:-1]) / 2, values)


def _spread(cells: NDArray, measure: NDArray, by_mass: float, count: int) -> NDArray:
    """`count` places, evenly in a measure of cells of equal mass, or in mass for a share of it."""
    density = (1 - by_mass) * measure / measure.sum() + by_mass / len(measure)
    rising = np.concatenate([[0.0], np.cumsum(density)])
    return np.interp((np.arange(count) + 0.5) / count * rising[-1], rising, cells)


def _edges(x: NDArray, levels: NDArray) -> NDArray:
    middles = np.searchsorted(x, (levels[1:] + levels[:-1]) / 2)
    return np.concatenate([[0], middles, [len(x)]])


def _centred(x: NDArray, levels: NDArray) -> NDArray:
    """One of Lloyd's steps on sorted values; levels without any stay."""
    edges = _edges(x, levels)
    number = np.diff(edges)
    used = number > 0
    moved = levels.copy()
    moved[used] = np.add.reduceat(x, edges[:-1][used]) / number[used]
    return np.sort(moved)


def _error(x: NDArray, levels: NDArray) -> float:
    near = np.repeat(levels, np.diff(_edges(x, levels)))
    return float(np.sqrt(np.square(x - near).mean()))
