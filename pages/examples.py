"""
The examples of docs/reference/api.md: the commands, in the order in which they are run.

What they answered is not written here but recorded from a real installation into examples.json, beside this file
(`scripts/docs --record`), and a test runs them again and compares (`pages.played`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

IMAGE = "busybox"
PASSWORD = "correct horse battery"  # noqa: S105 - of nobody
SETUP = """\
URL=https://127.0.0.1:8443                         # where the API is
export CURL_CA_BUNDLE=/var/lib/mayfly/ca.crt       # whom to trust, if not the system's authorities
AUTH="Authorization: Bearer $TOKEN"                # $TOKEN: the access_token of POST /v1/tokens, or a key
OPERATOR="Authorization: Bearer $OPERATORS_TOKEN"  # likewise, of a user with the role `operator`
"""


@dataclass(frozen=True, slots=True)
class Example:
    """
    A command and the operation that it shows; without one it prepares what follows, and is not shown.

    *saves* names variables for the commands after it, each with where its value is in the answer: a member of the body
    (`workers.0.id`), or after an `@` a header.
    """

    operation: str | None
    command: str
    saves: dict[str, str] = field(default_factory=dict)


def _log_in(name: str, token: str) -> Example:
    form = f"--data grant_type=password --data username={name} --data-urlencode 'password={PASSWORD}'"
    return Example(None, f"curl {form} $URL/v1/tokens", {token: "access_token"})


def _nap(activation: str) -> Example:
    call = "--header 'Prefer: respond-async' --data 60 $URL/v1/functions/nap/activations"
    return Example(None, f'curl --header "$AUTH" {call}', {activation: "@mayfly-activation-id"})


RUNNING = Example(
    None,
    "for _ in $(seq 100); do\n"
    '  curl --header "$AUTH" $URL/v1/activations/$NAP | grep -q \'"state":"running"\' && break; sleep 0.1\ndone',
)
"""Wait until the nap runs: what is ended before has another record."""

EXAMPLES = (
    Example("healthz", "curl $URL/healthz"),
    Example("readyz", "curl $URL/readyz"),
    Example("register", f"""curl --json '{{"username": "ann", "password": "{PASSWORD}"}}' $URL/v1/users"""),
    Example(
        "get_tokens",
        "curl --data grant_type=password --data username=ann \\\n"
        f"  --data-urlencode 'password={PASSWORD}' $URL/v1/tokens",
        {"TOKEN": "access_token", "REFRESH_TOKEN": "refresh_token"},
    ),
    Example(
        "get_tokens",
        "curl --data grant_type=refresh_token --data refresh_token=$REFRESH_TOKEN $URL/v1/tokens",
        {"TOKEN": "access_token"},
    ),
    Example("show_me", 'curl --header "$AUTH" $URL/v1/users/me'),
    Example(
        "register_function",
        'curl --header "$AUTH" --json \'{"name": "upper", "image": "busybox",\n'
        '  "command": ["sh", "-c", "echo working >&2; tr a-z A-Z"]}\' $URL/v1/functions',
    ),
    Example("list_functions", 'curl --header "$AUTH" "$URL/v1/functions?limit=10"'),
    Example("show_function", 'curl --header "$AUTH" $URL/v1/functions/upper', {"ETAG": "@etag"}),
    Example(
        "invoke",
        "curl --header \"$AUTH\" --data-binary 'hello, mayfly' $URL/v1/functions/upper/activations",
        {"ACTIVATION": "@mayfly-activation-id"},
    ),
    Example(
        None,
        'curl --header "$AUTH" --json \'{"name": "nap", "image": "busybox", "command": ["sleep"],\n'
        '  "parameter": "argument"}\' $URL/v1/functions',
    ),
    Example("list_activations", 'curl --header "$AUTH" "$URL/v1/activations?function=upper&limit=1"'),
    Example("show_activation", 'curl --header "$AUTH" $URL/v1/activations/$ACTIVATION'),
    Example("show_result", 'curl --header "$AUTH" $URL/v1/activations/$ACTIVATION/result'),
    Example("show_logs", 'curl --header "$AUTH" $URL/v1/activations/$ACTIVATION/logs'),
    Example("show_status", 'curl --header "$AUTH" $URL/v1/status'),
    Example(
        "invoke",
        "curl --header \"$AUTH\" --header 'Prefer: respond-async' --header 'Idempotency-Key: nap-1' \\\n"
        "  --data 60 $URL/v1/functions/nap/activations",
        {"NAP": "@mayfly-activation-id"},
    ),
    RUNNING,
    Example("cancel_activation", 'curl --header "$AUTH" --request DELETE $URL/v1/activations/$NAP'),
    Example(
        "replace_function",
        'curl --header "$AUTH" --header "If-Match: $ETAG" --request PUT \\\n'
        '  --json \'{"image": "busybox", "command": ["tr", "a-z", "A-Z"], "limits": {"memory_mib": 64}}\' \\\n'
        "  $URL/v1/functions/upper",
    ),
    Example(
        "set_secret",
        'curl --header "$AUTH" --request PUT --data-binary s3cret "$URL/v1/functions/upper/secrets/API_TOKEN?as=file"',
    ),
    Example("list_secrets", 'curl --header "$AUTH" $URL/v1/functions/upper/secrets'),
    Example("show_secret", 'curl --header "$AUTH" $URL/v1/functions/upper/secrets/API_TOKEN'),
    Example("delete_secret", 'curl --header "$AUTH" --request DELETE $URL/v1/functions/upper/secrets/API_TOKEN'),
    Example(
        "set_registry",
        'curl --header "$AUTH" --request PUT --json \'{"username": "ann", "password": "s3cret"}\' \\\n'
        "  $URL/v1/registries/registry.example.org:5000",
    ),
    Example("list_registries", 'curl --header "$AUTH" $URL/v1/registries'),
    Example("delete_registry", 'curl --header "$AUTH" --request DELETE $URL/v1/registries/registry.example.org:5000'),
    Example("make_key", 'curl --header "$AUTH" --json \'{"name": "ci", "expires_in_s": 604800}\' $URL/v1/keys'),
    Example("list_keys", 'curl --header "$AUTH" $URL/v1/keys'),
    Example("delete_key", 'curl --header "$AUTH" --request DELETE $URL/v1/keys/ci'),
    Example("list_audit", 'curl --header "$AUTH" "$URL/v1/audit?limit=2"'),
    Example(None, f"""curl --json '{{"username": "olga", "password": "{PASSWORD}"}}' $URL/v1/users"""),
    Example(None, "mayfly users role olga operator"),
    _log_in("olga", "OPERATORS_TOKEN"),
    Example("list_users", 'curl --header "$OPERATOR" "$URL/v1/admin/users?limit=1"'),
    Example("show_user", 'curl --header "$OPERATOR" $URL/v1/admin/users/ann'),
    Example(
        "change_user",
        'curl --header "$OPERATOR" --request PATCH --json \'{"max_activations": 2}\' $URL/v1/admin/users/ann',
    ),
    _nap("NAP"),
    RUNNING,
    Example(
        "end_users_activation",
        'curl --header "$OPERATOR" --request DELETE $URL/v1/admin/users/ann/activations/$NAP',
    ),
    Example("list_users_activations", 'curl --header "$OPERATOR" "$URL/v1/admin/users/ann/activations?limit=1"'),
    _nap("NAP"),
    RUNNING,
    Example("end_users_activations", 'curl --header "$OPERATOR" --request DELETE $URL/v1/admin/users/ann/activations'),
    Example(
        "invite",
        'curl --header "$OPERATOR" --json \'{"note": "for Bea", "expires_in_s": 86400}\' $URL/v1/admin/invitations',
        {"INVITATION": "id"},
    ),
    Example("list_invitations", 'curl --header "$OPERATOR" $URL/v1/admin/invitations'),
    Example("revoke_invitation", 'curl --header "$OPERATOR" --request DELETE $URL/v1/admin/invitations/$INVITATION'),
    Example("list_workers", 'curl --header "$OPERATOR" $URL/v1/admin/workers', {"WORKER": "workers.0.id"}),
    Example("drain_worker", 'curl --header "$OPERATOR" --request POST $URL/v1/admin/workers/$WORKER/drain'),
    Example("undrain_worker", 'curl --header "$OPERATOR" --request DELETE $URL/v1/admin/workers/$WORKER/drain'),
    Example(None, f"""curl --json '{{"username": "bea", "password": "{PASSWORD}"}}' $URL/v1/users"""),
    Example("delete_user", 'curl --header "$OPERATOR" --request DELETE $URL/v1/admin/users/bea'),
    Example("deregister_function", 'curl --header "$AUTH" --request DELETE $URL/v1/functions/nap'),
    Example(
        "change_password",
        'curl --header "$AUTH" --request PUT \\\n'
        f'  --json \'{{"current_password": "{PASSWORD}", "new_password": "{PASSWORD}"}}\' \\\n'
        "  $URL/v1/users/me/password",
    ),
    Example("log_out", 'curl --header "$AUTH" --request DELETE $URL/v1/tokens/current'),
    Example("problem", 'curl --header "$AUTH" $URL/v1/users/me'),
    _log_in("ann", "TOKEN"),
    Example("delete_me", 'curl --header "$AUTH" --request DELETE $URL/v1/users/me'),
)
"""`problem` is no operation: it shows what an error looks like."""
