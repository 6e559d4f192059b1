"""Reads the tokens of a route: where messages come from, on what condition, where they go.

Source: spec sheet routing.md section 1.1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from messaging.errors import RouteError
from messaging.routing.lexer import Kind, Token, tokenize
from messaging.text import quoted

# A twin, in which routes reach the hub, holds no more than this.
LONGEST_ROUTE = 32_768


@dataclass(frozen=True, slots=True)
class Sink:
    """`$upstream`, or a function with its address: `BrokeredEndpoint("/modules/m/inputs/i")`."""

    name: Token
    address: Token | None = None


@dataclass(frozen=True, slots=True)
class RouteSyntax:
    """A route as it is written; nothing in it has been checked but its grammar."""

    source: str  # with the blanks taken out: `/messages/*`
    sink: Sink


def parse_route(text: str) -> RouteSyntax:
    """Read a route.

    Raises:
        RouteError: `text` is not a route; text after the sink, which the reference hub ignores, included.
    """
    if len(text) > LONGEST_ROUTE:
        raise RouteError(f"The route has {len(text)} characters; at most {LONGEST_ROUTE} are allowed")
    return _Parser(tokenize(text)).route()


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
        self._expect_keyword("INTO")
        sink = self._sink()
        if self._peek().kind is not Kind.END:
            self._refuse("nothing may follow the sink")
        return RouteSyntax(source, sink)

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

    def _expect_keyword(self, keyword: str) -> None:
        if not self._skip_keyword(keyword):
            self._refuse(f"expected {keyword}")

    def _expect_text(self, text: str) -> None:
        if self._peek().text != text:
            self._refuse(f"expected {text}")
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
