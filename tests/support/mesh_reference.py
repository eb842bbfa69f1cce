"""The method's formulas, written down once more as slowly and plainly as they read: dictionaries, sets, loops."""

import math
from collections.abc import Iterable, Sequence


class Reference:
    """Over (UI, name, tree numbers) and counts."""

    def __init__(self, rows: Iterable[tuple[str, str, Sequence[str]]], counts: dict[str, int]):
        self.trees = {ui: list(trees) for ui, _, trees in rows}
        self.counts = counts
        self.holder = {tree: ui for ui, trees in self.trees.items() for tree in trees}
        placed = [ui for ui, trees in self.trees.items() if trees]
        self.up = {ui: self._ancestors(ui) for ui in placed}
        self.total = sum(counts.get(ui, 0) + 1 for ui in placed)
        self.freq: dict[str, int] = {}
        for ui in placed:
            for node in self.up[ui]:
                self.freq[node] = self.freq.get(node, 0) + counts.get(ui, 0) + 1
        self.ic = {node: -math.log(freq / self.total) for node, freq in self.freq.items()}
        self.ic_max = max(self.ic[ui] for ui in placed)

    def _ancestors(self, ui: str) -> set[str]:
        found = set()
        for tree in self.trees[ui]:
            found.add(tree[0])
            parts = tree.split(".")
            for depth in range(1, len(parts) + 1):
                found.add(self.holder.get(".".join(parts[:depth]), tree[0]))
        return found

    def similarity(self, a: str, b: str, measure: str) -> float:
        if measure == "kailin":
            return self._kailin(a, b)
        common = self.up[a] & self.up[b]
        if not common:
            return 0.0
        m = max(common, key=lambda node: self.ic[node])
        both = self.ic[a] + self.ic[b]
        lin = 1.0 if a == b else (2 * self.ic[m] / both if both else 0.0)
        if measure == "resnik":
            return self.ic[m] / self.ic_max
        if measure == "jc":
            return 1 - min(1.0, (both - 2 * self.ic[m]) / self.ic_max)
        return lin * (1 - self.freq[m] / self.total) if measure == "rel" else lin

    def sets(self, one: Sequence[str], two: Sequence[str], measure: str, aggregate: str) -> float | None:
        a, b = ({ui for ui in uis if self.trees.get(ui)} for uis in (one, two))
        if not a or not b:
            return None
        table = {(x, y): self.similarity(x, y, measure) for x in a for y in b}
        if aggregate == "mean":
            return sum(table.values()) / len(table)
        best = [max(table[x, y] for y in b) for x in a] + [max(table[x, y] for x in a) for y in b]
        return sum(best) / len(best)

    def _categories(self, ui: str) -> set[str]:
        return {tree.split(".")[0] for tree in self.trees[ui]}

    def _below(self, ui: str, category: str) -> set[str]:
        own = [tree for tree in self.trees[ui] if tree.split(".")[0] == category]
        return {
            holder for tree, holder in self.holder.items() if any(tree == t or tree.startswith(f"{t}.") for t in own)
        }

    def _branch_ic(self, ui: str, category: str) -> float:
        all_there = sum(self.counts.get(x, 0) for x in self.trees if category in self._categories(x))
        share = sum(self.counts.get(x, 0) for x in self._below(ui, category)) / all_there if all_there else 0.0
        return -math.log10(share) if 0 < share <= 1 else 0.0

    def _kailin(self, a: str, b: str) -> float:
        if a == b:
            return 1.0
        prefixes = set()
        for one in self.trees[a]:
            for two in self.trees[b]:
                shared: list[str] = []
                for x, y in zip(one.split("."), two.split("."), strict=False):
                    if x != y:
                        break
                    shared.append(x)
                prefixes.add(".".join(shared))
        longest = max(sorted(prefixes), key=len)
        if not longest:
            return 0.0
        lca = self.holder.get(longest)
        if lca is None:
            return 0.0
        values: list[float] = []
        for c in self._categories(a) & self._categories(b) & self._categories(lca):
            highest = max(self._branch_ic(x, c) for x in self.trees if c in self._categories(x))
            if highest <= 0:
                continue
            x, s = self._branch_ic(lca, c) / highest, self._branch_ic(a, c) + self._branch_ic(b, c)
            if s > 0:
                lin = 2 * x / s
                values += [lin, 1 - min(1.0, s - 2 * x), lin * (1 - 10 ** (-x * highest))]
        return sum(min(1.0, max(0.0, value)) for value in values) / len(values) if values else 0.0
