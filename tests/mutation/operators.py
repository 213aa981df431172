"""Mutants of a file: one small change each, as text put in the place of a node of its syntax tree."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "in": "not in",
    "not in": "in",
    "is": "is not",
    "is not": "is",
}
_COMPARISON = re.compile(r"<=|>=|==|!=|<|>|\bnot\s+in\b|\bis\s+not\b|\bin\b|\bis\b")
_NOT_COMMUTATIVE = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.LShift, ast.RShift, ast.MatMult)
#: Calls that pin an axis for good: the tracer's promise rests on them.
FREEZES = frozenset({"freeze", "forget", "opaque"})
#: Without them a mutant is no program of the same types: it dies of a TypeError, and nothing is learnt.
_NEVER_DROPPED = frozenset({"isinstance", "len", "range", "super", "zip", "enumerate", "partial", "getattr"})
_NEVER_SWAPPED = frozenset({"isinstance", "getattr", "hasattr", "partial", "setattr"})

OPERATORS = ("comparison", "plus or minus one", "dropped call", "swapped operand", "removed freeze")


@dataclass(frozen=True, order=True)
class Mutant:
    """One change of one file.

    Attributes:
      path: the file, from the checkout's root.
      line: where it begins, from 1.
      start: the same, in bytes of the file.
      operator: one of `OPERATORS`.
      before: the text that stands there.
      after: the text that is put in its place.
    """

    path: str
    line: int
    start: int
    operator: str
    before: str
    after: str


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All mutants of a file, in the order of the file; few of them may not compile."""
    return sorted(set(_Finder(path, source).mutants()))


def mutated(source: str, mutant: Mutant) -> str:
    """The file's text with the change made."""
    whole, before = source.encode(), mutant.before.encode()
    end = mutant.start + len(before)
    if whole[mutant.start : end] != before:
        raise ValueError(f"{mutant.path}:{mutant.line} does not read {mutant.before!r}")
    return (whole[: mutant.start] + mutant.after.encode() + whole[end:]).decode()


class _Finder:
    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._tree = ast.parse(source)
        self._whole = source.encode()
        self._lines = [0]
        for line in self._whole.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        imports = [node for node in ast.walk(self._tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        self._imported = {
            (alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names
        }
        statements = [node for node in ast.walk(self._tree) if isinstance(node, ast.Expr)]
        self._statements = {id(node.value) for node in statements}

    def mutants(self) -> Iterator[Mutant]:
        for node in _code(self._tree):
            if isinstance(node, ast.Compare):
                yield from self._comparisons(node)
            elif isinstance(node, ast.Constant) and type(node.value) is int:
                yield from self._integers(node)
            elif isinstance(node, ast.BinOp) and isinstance(node.op, _NOT_COMMUTATIVE):
                yield from self._swapped(node, node.left, node.right)
            elif isinstance(node, ast.Call):
                yield from self._calls(node)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, start: int, end: int) -> str:
        return self._whole[start:end].decode()

    def _at(self, start: int, operator: str, before: str, after: str) -> Mutant:
        line = self._whole[:start].count(b"\n") + 1
        return Mutant(self._path, line, start, operator, before, after)

    def _put(self, node: ast.AST, operator: str, after: str) -> Mutant:
        start, end = self._span(node)
        return self._at(start, operator, self._text(start, end), after)

    def _comparisons(self, node: ast.Compare) -> Iterator[Mutant]:
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            begin, end = self._span(left)[1], self._span(right)[0]
            between = self._text(begin, end)
            found = _COMPARISON.search(between)
            if found is not None:
                start = begin + len(between[: found.start()].encode())
                after = COMPARISONS[" ".join(found.group().split())]
                yield self._at(start, "comparison", found.group(), after)

    def _integers(self, node: ast.Constant) -> Iterator[Mutant]:
        for value in (node.value + 1, node.value - 1):
            yield self._put(node, "plus or minus one", str(value) if value >= 0 else f"({value})")

    def _swapped(self, node: ast.AST, first: ast.AST, second: ast.AST) -> Iterator[Mutant]:
        """Both spans exchanged, in brackets where one was a part of a sum or a product."""
        start, end = self._span(node)
        (a, b), (c, d) = self._span(first), self._span(second)
        one, two = self._text(a, b), self._text(c, d)
        if one == two:
            return
        if isinstance(node, ast.BinOp):
            one, two = f"({one})", f"({two})"
        after = self._text(start, a) + two + self._text(b, c) + one + self._text(d, end)
        yield self._at(start, "swapped operand", self._text(start, end), after)

    def _calls(self, node: ast.Call) -> Iterator[Mutant]:
        name = _called(node)
        if name[:1].isupper() or any(isinstance(arg, ast.Starred) for arg in node.args):
            return
        if len(node.args) >= 2 and name not in _NEVER_SWAPPED:
            yield from self._swapped(node, node.args[0], node.args[1])
        if id(node) in self._statements:
            yield self._put(node, "removed freeze" if name in FREEZES else "dropped call", "None")
            return
        if name in _NEVER_DROPPED:
            return
        left = node.args[0] if node.args else None
        if isinstance(node.func, ast.Attribute) and not self._of_a_module(node.func):
            left = node.func.value
        if left is not None:
            yield self._put(node, "dropped call", f"({self._text(*self._span(left))})")

    def _of_a_module(self, node: ast.Attribute) -> bool:
        inner = node.value
        while isinstance(inner, ast.Attribute):
            inner = inner.value
        return isinstance(inner, ast.Name) and inner.id in self._imported


def _called(node: ast.Call) -> str:
    """The last name of what is called; empty where it has none."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that decide what a program does: no annotation, decorator, message of an error, format."""
    yield node
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _code(child)
