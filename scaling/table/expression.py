"""A small safe language over columns: sums and products of them, and conditions joined by and, or, not."""

import ast
import difflib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: np.power,
}
FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "log": (1, np.log),
    "log2": (1, np.log2),
    "log10": (1, np.log10),
    "exp": (1, np.exp),
    "sqrt": (1, np.sqrt),
    "power": (2, np.power),
}
"""By name: how many arguments, and what they give."""
GRAMMAR = (
    "compare columns, numbers and 'texts' with < <= > >= == !=, ask missing(column), join with and, or, not; "
    f"+ - * / and {', '.join(FUNCTIONS)} are allowed; a name that is no word goes in `backquotes`"
)
MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "--", "?", "nat", "#n/a"}
"""Texts that stand for no value, in small letters."""
SLIPS = ((r"[“”‘’]", "quote texts with plain ' or \""), (r"(?<![<>=!])=(?!=)", "equality is =="), (r"&", "& is and"))
"""What is often written instead, and what to say about it."""


class ExpressionError(ValueError):
    """An expression that is not in the grammar, or names no column."""


@dataclass(frozen=True)
class Scope:
    """An expression and the columns it may name."""

    expression: str
    columns: Mapping[str, np.ndarray]

    def fail(self, what: str) -> ExpressionError:
        """Returns the error that says what is wrong with the expression."""
        odd = [name for name in self.columns if name != as_word(name) and name in self.expression]
        hint = "".join(f" Column {name!r} is written {as_word(name)}." for name in odd)
        return ExpressionError(f"the expression {self.expression!r} {what}{hint}")


def as_word(name: str) -> str:
    """Returns the name by which an expression can call a column: `tokens (B)` is tokens_B."""
    word = re.sub(r"\W+", "_", name).strip("_")
    return f"_{word}" if word[:1].isdigit() else word


def select_rows(expression: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns which rows satisfy the expression.

    Args:
      expression: for instance `tokens / params < 0.4 or stage != 'pilot'`.
      columns: arrays [runs], numbers or texts, by name; a name that is no word is written as `as_word` has it.

    Returns:
      bool [runs].

    Raises:
      ExpressionError: for anything outside the grammar, for a name that is no column, and for comparisons that cannot
        mean what they say.
    """
    scope = _scope(expression, columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.asarray(_condition(_parse(scope), scope))
    return rows.astype(bool)


def compute_column(expression: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the column [runs] that an expression such as `tokens_B * 1e9` gives.

    Raises:
      ExpressionError: as `select_rows`, or if it names no column.
    """
    for name in sorted(columns, key=len, reverse=True):
        if name != as_word(name):
            expression = re.sub(rf"""(['"]){re.escape(name)}\1""", as_word(name), expression)
            expression = expression.replace(name, as_word(name)) if " " in name else expression
    scope = _scope(expression, columns)
    tree = _parse(scope)
    if not _names(tree):
        raise scope.fail("names no column.")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.array(_number(_value(tree, scope), scope))


def values_not_there(expression: str, columns: Mapping[str, np.ndarray]) -> list[str]:
    """Returns a sentence for each text in the expression that its column never holds, naming what it does hold."""
    scope, out = _scope(expression, columns), []
    for node in ast.walk(_parse(scope)):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        for name, text in [*zip(sides, sides[1:], strict=False), *zip(sides[1:], sides, strict=False)]:
            if not (isinstance(name, ast.Name) and isinstance(text, ast.Constant) and isinstance(text.value, str)):
                continue
            held = sorted(set(_column(name, scope).tolist()))
            if text.value in held or not all(isinstance(each, str) for each in held):
                continue
            near = difflib.get_close_matches(text.value, held, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It holds {', '.join(map(repr, held[:6]))}."
            out.append(f"No row has {name.id} {text.value!r}. {hint}")
    return out


def _scope(expression: str, columns: Mapping[str, np.ndarray]) -> Scope:
    expression = re.sub(r"`([^`]+)`", lambda found: as_word(found[1].strip()), expression)
    return Scope(expression, {**{as_word(name): values for name, values in columns.items()}, **columns})


def _parse(scope: Scope) -> ast.expr:
    try:
        return ast.parse(scope.expression.strip(), mode="eval").body
    except SyntaxError as mistake:
        hints = "".join(f" ({hint})" for pattern, hint in SLIPS if re.search(pattern, scope.expression))
        raise scope.fail(f"cannot be read: {mistake.msg}{hints}; {GRAMMAR}.") from None


def _names(tree: ast.AST) -> list[str]:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called]


def _condition(node: ast.AST, scope: Scope) -> Any:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, scope) for value in node.values]
        return np.logical_and.reduce(parts) if isinstance(node.op, ast.And) else np.logical_or.reduce(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return np.logical_not(_condition(node.operand, scope))
    if isinstance(node, ast.Compare) and all(type(op) in COMPARISONS for op in node.ops):
        if not _names(node):
            raise scope.fail(f"compares no column in {ast.unparse(node)!r}.")
        sides = [node.left, *node.comparators]
        parts = [_compare(op, left, right, scope) for op, left, right in zip(node.ops, sides, sides[1:], strict=False)]
        size = len(next(iter(scope.columns.values())))
        return np.broadcast_to(np.logical_and.reduce(parts), (size,))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "missing" and len(node.args) == 1:
        if isinstance(node.args[0], ast.Name):
            return _is_missing(_column(node.args[0], scope))
    hint = " (& and | are and and or)" if re.search(r"[&|]", scope.expression) else ""
    raise scope.fail(f"is not a condition on the columns{hint}: {GRAMMAR}.")


def _is_missing(values: np.ndarray) -> np.ndarray:
    """Returns which values [runs] are no number, or a text that stands for no value."""
    if values.dtype.kind in "US":
        return np.isin(np.char.lower(np.char.strip(values)), list(MISSING))
    return np.isnan(values)


def _compare(op: ast.cmpop, left: ast.expr, right: ast.expr, scope: Scope) -> Any:
    first, second = np.asarray(_value(left, scope)), np.asarray(_value(right, scope))
    texts = [each.dtype.kind in "US" for each in (first, second)]
    if all(texts):
        for column, other, values in ((left, right, first), (right, left, second)):
            if isinstance(column, ast.Name) and isinstance(other, ast.Name) and other.id in values:
                raise scope.fail(
                    f"compares the columns {column.id} and {other.id}, but {other.id!r} is also a value of "
                    f"{column.id}: write {column.id} == '{other.id}' (in quotes) for the value."
                )
    elif any(texts):
        first, second = (_as_numbers(each, node, scope) for each, node in ((first, left), (second, right)))
    return COMPARISONS[type(op)](first, second)


def _as_numbers(values: np.ndarray, node: ast.expr, scope: Scope) -> np.ndarray:
    """Returns texts as the numbers they spell, so that seed == 1 works either way; NaN for others in a column."""
    if values.dtype.kind not in "US":
        return values
    numbers = np.array([_float(text) for text in values.ravel()])
    if not isinstance(node, ast.Name) and np.isnan(numbers).any():
        raise scope.fail(f"compares numbers with the text {ast.unparse(node)}.")
    return numbers


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _column(node: ast.Name, scope: Scope) -> np.ndarray:
    if node.id in scope.columns:
        return scope.columns[node.id]
    holders = [name for name, values in scope.columns.items() if values.dtype.kind in "US" and node.id in values]
    if holders:
        raise scope.fail(f"names {node.id!r}, which is no column but a value: write {holders[0]} == '{node.id}'.")
    near = difflib.get_close_matches(node.id, scope.columns, n=1)
    words = [as_word(name) for name in scope.columns]
    hint = f"Did you mean {as_word(near[0])!r}?" if near else f"Columns: {', '.join(dict.fromkeys(words))}."
    raise scope.fail(f"names {node.id!r}, which is no column. {hint}")


def _value(node: ast.AST, scope: Scope) -> Any:
    if isinstance(node, ast.Name):
        return _column(node, scope)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(_value(node.operand, scope), scope)
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        left, right = (_number(_value(each, scope), scope) for each in (node.left, node.right))
        return ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.Call) and not node.keywords and ast.unparse(node.func) in FUNCTIONS:
        count, function = FUNCTIONS[ast.unparse(node.func)]
        if len(node.args) == count:
            return function(*(_number(_value(each, scope), scope) for each in node.args))
    raise scope.fail(f"holds {ast.unparse(node)!r}, not allowed: {GRAMMAR}.")


def _number(value: Any, scope: Scope) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "US":
        raise scope.fail(f"does arithmetic on a text: {GRAMMAR}.")
    return array.astype(np.float64)
