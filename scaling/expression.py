"""A small safe language for choosing rows: comparisons of columns and numbers joined by and, or, not."""

import ast
import difflib
import operator
from collections.abc import Callable, Mapping
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
}
GRAMMAR = "compare columns, numbers and 'texts' with < <= > >= == !=, join with and, or, not; + - * / are allowed"


class ExpressionError(ValueError):
    """A row expression that is not in the grammar, or names no column."""


def select_rows(expression: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns which rows satisfy the expression.

    Args:
      expression: for instance `tokens / params < 0.4 or stage != 'pilot'`.
      columns: arrays [runs], numbers or texts, by name.

    Returns:
      bool [runs].

    Raises:
      ExpressionError: for anything outside the grammar and for a name that is no column.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as mistake:
        raise ExpressionError(f"cannot read the expression {expression!r}: {mistake.msg}; {GRAMMAR}.") from None
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.asarray(_condition(tree, expression, columns))
    return rows.astype(bool)


def _condition(node: ast.AST, expression: str, columns: Mapping[str, np.ndarray]) -> Any:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, expression, columns) for value in node.values]
        return np.logical_and.reduce(parts) if isinstance(node.op, ast.And) else np.logical_or.reduce(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return np.logical_not(_condition(node.operand, expression, columns))
    if isinstance(node, ast.Compare) and all(type(op) in COMPARISONS for op in node.ops):
        values = [_value(each, expression, columns) for each in [node.left, *node.comparators]]
        parts = [
            _compare(COMPARISONS[type(op)], left, right)
            for op, left, right in zip(node.ops, values, values[1:], strict=False)
        ]
        size = len(next(iter(columns.values())))
        return np.broadcast_to(np.logical_and.reduce(parts), (size,))
    raise ExpressionError(f"the expression {expression!r} is not a condition on the columns: {GRAMMAR}.")


def _compare(compare: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """Returns the comparison; a number and a text are compared as texts, so seed == '1' works either way."""
    left, right = np.asarray(left), np.asarray(right)
    if (left.dtype.kind in "US") != (right.dtype.kind in "US"):
        left, right = _as_text(left), _as_text(right)
    return compare(left, right)


def _as_text(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind in "US" else np.array([f"{each:g}" for each in values.ravel()])


def _value(node: ast.AST, expression: str, columns: Mapping[str, np.ndarray]) -> Any:
    if isinstance(node, ast.Name):
        if node.id in columns:
            return columns[node.id]
        near = difflib.get_close_matches(node.id, columns, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Columns: {', '.join(columns)}."
        raise ExpressionError(f"the expression {expression!r} names {node.id!r}, which is no column.{hint}")
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(_value(node.operand, expression, columns), expression)
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        left = _number(_value(node.left, expression, columns), expression)
        right = _number(_value(node.right, expression, columns), expression)
        return ARITHMETIC[type(node.op)](left, right)
    raise ExpressionError(f"the expression {expression!r} holds {ast.unparse(node)!r}, not allowed: {GRAMMAR}.")


def _number(value: Any, expression: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind in "US":
        raise ExpressionError(f"the expression {expression!r} does arithmetic on a text: {GRAMMAR}.")
    return array.astype(np.float64)
