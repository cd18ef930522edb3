"""Who visits: a signed cookie that no script reads, and a token on every form against forms of other sites.

A guest is a random name that stands in the cookie alone; nothing is kept of a guest who asks nothing. Whoever signs in
has the cookie of an account beside it, which ends when the passphrase changes or the account does.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field

from noria.assistant.config.page import PageConfig
from noria.assistant.web.visitors.accounts import Account, Accounts
from noria.core.service.serving import Request, Response

GUEST, SIGNED_IN = "guest", "account"


@dataclass(frozen=True)
class Visitor:
    """The user or guest who sent a request.

    Attributes:
        name: name under which the gateway knows the user.
        guest: name of the guest of this browser.
        account: account that is signed in, if any.
        token: token that each form of this visitor carries.
        base: path of the pages that are visited: `/chat`, or `/chat/embed` inside of a shop's page.
    """

    name: str
    guest: str
    account: Account | None
    token: str
    base: str

    @property
    def embedded(self) -> bool:
        """Whether the page is inside of another one."""
        return self.base != "/chat"


@dataclass
class Sessions:
    """Makes and reads cookies.

    Args:
        secret: secret of the folder.
        config: settings of the page.
        accounts: accounts by name.
    """

    secret: bytes
    config: PageConfig
    accounts: Accounts
    _key: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._key = hmac.digest(self.secret, b"noria page sessions", "sha256")

    def visitor(self, request: Request, base: str) -> Visitor:
        """Who sent a request to the pages below a path; a new guest where there is no cookie that holds."""
        guest = self._read(request, base, GUEST)
        if guest is None or (base == "/chat" and self.accounts.is_taken(guest)):
            guest = new_guest()
        account = None
        if (
            base == "/chat" and self.config.accounts
        ):  # a page around this one must not lure anybody to sign in
            key, _, generation = (self._read(request, base, SIGNED_IN) or "").partition(" ")
            found = self.accounts.of_key(key) if key else None
            if found is not None and str(found.generation) == generation:
                account = found
        return self.known(guest, account, base)

    def known(self, guest: str, account: Account | None, base: str) -> Visitor:
        """The visitor of a guest's name and an account."""
        name = guest if account is None else account.user
        return Visitor(
            name, guest, account, self._sign("form", base, guest, account.key if account else ""), base
        )

    def right_token(self, visitor: Visitor, token: object) -> bool:
        """Whether a form was made for this visitor."""
        return isinstance(token, str) and hmac.compare_digest(token.encode(), visitor.token.encode())

    def remember(self, response: Response, visitor: Visitor) -> Response:
        """The response with the visitor's cookies, which begin their time anew."""
        self._write(response, visitor.base, GUEST, visitor.guest)
        account = visitor.account
        self._write(
            response,
            visitor.base,
            SIGNED_IN,
            "" if account is None else f"{account.key} {account.generation}",
        )
        return response

    # -- cookies ------------------------------------------------------------------------------------------------------

    def _cookie(self, base: str, kind: str) -> str:
        return f"noria{base.replace('/', '-')}-{kind}"

    def _read(self, request: Request, base: str, kind: str) -> str | None:
        """Value of a cookie that this service wrote, within its time."""
        value, _, signed = request.cookies.get(self._cookie(base, kind), "").rpartition(".")
        content, _, at = value.rpartition(".")
        if not content or not at.isdecimal() or len(value) > 300:
            return None
        if not hmac.compare_digest(signed.encode(), self._sign(kind, base, content, at).encode()):
            return None
        if not 0 <= time.time() - int(at) + 300 <= 86400 * self.config.days + 300:
            return None
        return content.replace("_", " ")

    def _write(self, response: Response, base: str, kind: str, content: str) -> None:
        name = self._cookie(base, kind)
        content, at = content.replace(" ", "_"), str(int(time.time()))
        # A frame of another site gets its cookie only over HTTPS, and one for each site around it (CHIPS).
        framed = base != "/chat" and self.config.secure
        value = f"{content}.{at}.{self._sign(kind, base, content, at)}" if content else ""
        parts = [
            f"{name}={value}", f"Path={base}", "HttpOnly",
            f"Max-Age={int(86400 * self.config.days) if content else 0}",
            "SameSite=None; Partitioned" if framed else "SameSite=Lax",
            *(["Secure"] if self.config.secure else []),
        ]  # fmt: skip
        if content or kind != SIGNED_IN or base == "/chat":
            response.headers.append("set-cookie", "; ".join(parts))

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()[:40]


def new_guest() -> str:
    """A name that nobody can guess."""
    return f"guest {secrets.token_hex(12)}"
