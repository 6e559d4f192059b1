"""Reads the tokens of a route: where messages come from, on what condition, where they go.

Source: spec sheet routing.md sections 1.1 and 2.2
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from msgspec import Struct

from messaging.errors import RouteError
from messaging.routing.lexer import Kind, Token, tokenize
from messaging.text import quoted

# A twin, in which routes reach the hub, holds no more than this.
LONGEST_ROUTE = 32_768
# Brackets, function calls, NOT and minus inside each other. Bounds the recursion of parser, compiler and
# compiled condition: each such level has at most one chain of each of the seven levels of operators in it.
DEEPEST_NESTING = 32

# Higher binds tighter; operators of one level associate to the left. NOT and the sign of a number bind
# tighter than all of them.
_LEVELS = {
    "??": 1,
    "OR": 2,
    "AND": 3,
    "=": 4,
    "!=": 4,
    "<>": 4,
    "<": 5,
    "<=": 5,
    ">": 5,
    ">=": 5,
    "+": 6,
    "-": 6,
    "||": 6,
    "*": 7,
    "/": 7,
    "%": 7,
}


class Constant(Struct, frozen=True):
    """A string, a number, or one of true, false, null and undefined."""

    token: Token


class Property(Struct, frozen=True):
    """`name`, `$name` or `$body.path`; `is_escaped` when written in braces: `{$name}`."""

    token: Token
    is_escaped: bool = False


class Call(Struct, frozen=True):
    """A function and its arguments."""

    name: Token
    arguments: tuple[Expression, ...]


class Prefix(Struct, frozen=True):
    """NOT or a sign before an operand."""

    operator: Token
    operand: Expression


class Chain(Struct, frozen=True):
    """`first`, then operators with their right sides, to be applied from left to right.

    `a = b AND c` is the chain a, (= b), (AND c): thousands of terms make a long chain, not a deep tree.
    """

    first: Expression
    steps: list[tuple[Token, Expression]]


Expression = Constant | Property | Call | Prefix | Chain


class Sink(Struct, frozen=True):
    """`$upstream`, or a function with its address: `BrokeredEndpoint("/modules/m/inputs/i")`."""

    name: Token
    address: Token | None = None


class RouteSyntax(Struct, frozen=True):
    """A route as it is written; nothing in it has been checked but its grammar."""

    source: str  # with the blanks taken out: `/messages/*`
    condition: Expression | None
    sink: Sink


def parse_route(text: str) -> RouteSyntax:
    """Read a route.

    Raises:
        RouteError: `text` is not a route; text after the sink, which the reference hub ignores, included.
    """
    if len(text) > LONGEST_ROUTE:
        raise RouteError(f"The route has {len(text)} characters; at most {LONGEST_ROUTE} are allowed")
    return _Parser(tokenize(text)).route()


_BEFORE_CONDITION = "FROM /* WHERE "
_AFTER_CONDITION = " INTO $upstream"


@contextmanager
def positions_in_condition(text: str) -> Iterator[None]:
    """Let errors of a condition that was read with `parse_condition` have positions in its own text."""
    try:
        yield
    except RouteError as exc:
        line, column = exc.line, exc.column - (len(_BEFORE_CONDITION) if exc.line == 1 else 0)
        lines = text.split("\n")
        # What was written around the condition is not its author's.
        hint = exc.hint.replace(_AFTER_CONDITION, "").removesuffix(" or INTO")
        if line > len(lines) or column > len(lines[line - 1]):
            line, column = len(lines), len(lines[-1]) + 1
            hint = hint.replace("found 'INTO'", "found its end")
        raise RouteError(exc.reason, line, max(1, column), hint) from exc


def parse_condition(text: str) -> Expression | None:
    """Read a condition alone, as it stands between WHERE and INTO of `FROM /* WHERE … INTO $upstream`.

    None when it is empty. Positions in errors and tokens are those in that route.

    Raises:
        RouteError: `text` is not a condition there; one with a `*/` may not be, see `tokenize`.
    """
    if not text.strip(" \t\r\n"):
        return None
    condition = parse_route(f"{_BEFORE_CONDITION}{text}{_AFTER_CONDITION}").condition
    if condition is None:
        raise RouteError("Syntax error.", 1, len(_BEFORE_CONDITION) + 1, hint="a comment swallows it")
    return condition


_CONSTANTS = (Kind.STRING, Kind.INTEGER, Kind.HEX, Kind.REAL, Kind.CONSTANT)


def level_of(token: Token) -> int:
    """How tight a binary operator binds; 0 for any other token."""
    is_operator = token.kind in (Kind.OPERATOR, Kind.PUNCTUATION)
    return _LEVELS.get(token.text.upper(), 0) if is_operator else 0


def _join(operands: list[Expression], operators: list[Token]) -> None:
    """Put the last two operands together with the last operator."""
    right, operator = operands.pop(), operators.pop()
    left = operands.pop()
    chain = left if isinstance(left, Chain) else Chain(left, [])
    chain.steps.append((operator, right))
    operands.append(chain)


class _Parser:
    """Recursive descent over a list of tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def route(self) -> RouteSyntax:
        if self._peek().kind is Kind.END:
            raise RouteError("The route is empty; a source is required", 1, 1)
        if self._skip_keyword("SELECT"):
            self._expect_text("*")
        self._expect_keyword("FROM")
        source = self._source()
        condition = None
        if self._skip_keyword("WHERE"):
            condition = self._expression(0)
            self._end_condition()
        else:
            self._expect_keyword("INTO", hint="expected WHERE or INTO")
        sink = self._sink()
        if self._peek().kind is not Kind.END:
            self._refuse("nothing may follow the sink")
        return RouteSyntax(source, condition, sink)

    def _source(self) -> str:
        items: list[str] = []
        while not items or self._peek().text == "/":
            self._expect_text("/")
            token = self._next()
            if token.kind is not Kind.NAME and token.text != "*":
                self._refuse("a name or * must follow the / of a source", token)
            items.append(token.text)
        return "/" + "/".join(items)

    def _sink(self) -> Sink:
        name = self._next()
        if name.kind is Kind.SYSTEM_PROPERTY:
            return Sink(name)
        if name.kind is not Kind.NAME:
            self._refuse('expected a sink, $upstream or BrokeredEndpoint("...")', name)
        self._expect_text("(")
        address = self._next()
        if address.kind is not Kind.STRING:
            self._refuse("expected the sink's address in quotes", address)
        self._expect_text(")")
        return Sink(name, address)

    def _end_condition(self) -> None:
        token = self._peek()
        if token.text == ")" and self._tokens[self._at - 1].text == ")":
            raise RouteError("Syntax error: unmatched closing ')'", token.line, token.column)
        self._expect_keyword("INTO", hint="expected an operator or INTO")

    def _expression(self, nesting: int) -> Expression:
        """Operands with operators between. Two stacks, so that levels of operators are no recursion."""
        operands = [self._operand(nesting)]
        operators: list[Token] = []
        while level := level_of(self._peek()):
            while operators and level_of(operators[-1]) >= level:
                _join(operands, operators)
            operators.append(self._next())
            operands.append(self._operand(nesting))
        while operators:
            _join(operands, operators)
        return operands[0]

    def _operand(self, nesting: int) -> Expression:
        token = self._next()
        if nesting > DEEPEST_NESTING:
            hint = f"at most {DEEPEST_NESTING} levels are allowed"
            raise RouteError("The condition is nested too deeply", token.line, token.column, hint=hint)
        if token.kind is Kind.NAME:
            return self._call(token, nesting) if self._peek().text == "(" else Property(token)
        if token.kind is Kind.SYSTEM_PROPERTY:
            return Property(token)
        if token.kind in _CONSTANTS:
            return Constant(token)
        if token.text == "(":
            return self._bracket(token, nesting)
        if token.text == "{":
            name = self._next()
            if name.kind is not Kind.SYSTEM_PROPERTY:
                self._refuse("only a system property, $name, can stand in braces", name)
            self._expect_text("}")
            return Property(name, is_escaped=True)
        if token.kind is Kind.OPERATOR and token.text.upper() in ("NOT", "-"):
            return Prefix(token, self._operand(nesting + 1))
        return self._refuse("expected a property, a value or a function", token)

    def _bracket(self, opening: Token, nesting: int) -> Expression:
        expression = self._expression(nesting + 1)
        if self._peek().kind in (Kind.KEYWORD, Kind.END):
            raise RouteError("Syntax error: missing closing ')'", opening.line, opening.column)
        self._expect_text(")")
        return expression

    def _call(self, name: Token, nesting: int) -> Call:
        self._expect_text("(")
        arguments: list[Expression] = []
        while self._peek().text != ")":
            if arguments:
                self._expect_text(",", hint="expected , or )")
            arguments.append(self._expression(nesting + 1))
        self._next()
        return Call(name, tuple(arguments))

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)  # END is never passed
        return token

    def _skip_keyword(self, keyword: str) -> bool:
        token = self._peek()
        found = token.kind is Kind.KEYWORD and token.text.upper() == keyword
        if found:
            self._next()
        return found

    def _expect_keyword(self, keyword: str, hint: str = "") -> None:
        if not self._skip_keyword(keyword):
            self._refuse(hint or f"expected {keyword}")

    def _expect_text(self, text: str, hint: str = "") -> None:
        if self._peek().text != text:
            self._refuse(hint or f"expected {text}")
        self._next()

    def _refuse(self, hint: str, token: Token | None = None) -> NoReturn:
        """Raise the error for the next token, or for `token`. `hint` says what would have been right."""
        token = token or self._peek()
        if token.kind is Kind.INVALID:
            reason = f"Syntax error: invalid symbol '{token.text}'"
        elif token.kind is Kind.UNTERMINATED:
            reason = "Syntax error: unterminated string"
            hint = r"""a string ends with the quote it began with; in it only \" \' \\ \uXXXX are escapes"""
        else:
            reason = "Syntax error."
        found = quoted(token.text) if token.text else "the end of the route"
        raise RouteError(reason, token.line, token.column, hint=f"found {found}, {hint}")
