"""What is kept of an address, what is not, and how a secret reaches who needs it."""

from __future__ import annotations

import json
import os
import random
import string

import pytest

from facenet.errors import UserError
from facenet.privacy import addresses
from facenet.privacy.addresses import hide_secrets, mask, masked_address, masked_in, restore_secrets, restored_address

HIDDEN = [  # address, what may be recorded of it
    ("http://me:hunter2@host:5000/x", "http://***@host:5000/x"),
    ("https://ghp_hunter2@host/api", "https://***@host/api"),
    ("https://hunter2:@host/api", "https://***@host/api"),
    ("mysql://:hunter2@db/mlflow", "mysql://***@db/mlflow"),
    ("postgresql://me:p%40hunter2@db/mlflow", "postgresql://***@db/mlflow"),
    ("postgresql://me:hunter2@er2@db/mlflow", "postgresql://***@db/mlflow"),
    ("postgresql://me:hunter2/er2@db/mlflow", "postgresql://***@db/mlflow"),
    ("postgresql://me:12/hunter2@db/mlflow", "postgresql://***@db/mlflow"),
    ("postgresql://me:hunter2#er2@db/mlflow", "postgresql://***@db/mlflow"),
    ("postgresql://me:hunter2?er2@db/mlflow", "postgresql://***@db/mlflow"),
    ("postgresql://me:h @:/?#%hunter2'\"@[::1]:5432/mlflow", "postgresql://***@[::1]:5432/mlflow"),
    ("mysql+pymysql://me:hunter2@one:3306,two:3307/db?charset=utf8", "mysql+pymysql://***@one:3306,two:3307/db?***"),
    ("postgresql://db/mlflow?user=me&password=hunter2", "postgresql://db/mlflow?***"),
    ("postgresql://me@db/mlflow?password=x@hunter2/er2#3", "postgresql://***@db/mlflow?***"),
    ("https://host/api?api_key=hunter2", "https://host/api?***"),
    ("https://host/api?hunter2", "https://host/api?***"),
    ("https://host/api#access_token=hunter2", "https://host/api#***"),
    ("https://host/api;password=hunter2/er2", "https://host/api;***"),
    ("jdbc:sqlserver://host:1433;user=me;password=hunter2", "jdbc:sqlserver://host:1433;***"),
    ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dhunter2", "mssql+pyodbc:///?***"),
    ("https://b.s3.amazonaws.com/x.tar?X-Amz-Signature=hunter2&X-Amz-Date=1", "https://b.s3.amazonaws.com/x.tar?***"),
    ("https://a.blob.core.windows.net/c/f-{000..010}.tar?sv=1&sig=hunter2%3D", "https://a.blob.core.windows.net/c/f-{000..010}.tar?***"),
    ("https://storage.googleapis.com/b/x.tar?X-Goog-Signature=hunter2", "https://storage.googleapis.com/b/x.tar?***"),
    ("https://h/a.tar?sig=hunter2::https://h/b.tar?sig=hunter2", "https://h/a.tar?***::https://h/b.tar?***"),
    ("/data/a.tar::https://h/b.tar?sig=hunter2", "/data/a.tar::https://h/b.tar?***"),
    ("https://gate/fetch/https://me:hunter2@host/x", "https://gate/fetch/https://***@host/x"),
    ("https://gate/?to=https://me:hunter2@host/x", "https://gate/?***"),
    ("s3://key:hunter2/+x@bucket/p", "s3://***@bucket/p"),
    ("sqlite:////data/a@b/mlflow.db?password=hunter2", "sqlite:////data/a@b/mlflow.db?***"),
    ("sqlite+pysqlcipher://:hunter2@/x.db?cipher=aes", "sqlite+pysqlcipher://***@/x.db?***"),
    ("HTTPS://me:hunter2@HOST/x", "HTTPS://***@HOST/x"),
    ("pipe:curl -u me:hunter2 https://host/x", "pipe:***"),
]  # fmt: skip
KEPT = [
    "http://127.0.0.1:5000",
    "http://host:5000/a@b",
    "https://host.example/faces@2x/a.tar",
    "https://host/f-{000..010}.tar",
    "https://[::1]:5000/x",
    "postgresql://db:5432/mlflow",
    "postgresql://one:1,two:2/mlflow",
    "sqlite:////data/mlflow.db",
    "sqlite:////home/me@work/a#b;c/mlflow.db",
    "file:///data/x",
    "models:/name@candidate",
    "runs:/0123",
    "/data/faces{0..9}.tar",
    "a@b: 50 %",
    "",
]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left in the environment."""
    monkeypatch.setenv(addresses.VARIABLE, "[]")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize(("address", "expected"), HIDDEN)
def test_of_an_address_scheme_host_port_and_path_are_kept(address: str, expected: str) -> None:
    assert masked_address(address) == expected and "hunter" not in expected
    assert masked_address(expected) == expected, "an address is masked twice on its way"


@pytest.mark.parametrize("address", KEPT)
def test_what_holds_no_secret_stays_as_it_is(address: str) -> None:
    assert masked_address(address) == address and hide_secrets(address) == address
    assert not addresses.without_secret(address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no answer from https://a:b@c and https://d:e@f", "no answer from https://***@c and https://***@f"),
        ("'https://h/x?sig=hunter2' (403)", "'https://h/x?***' (403)"),
        ("Max retries exceeded with url: /api/2.0?access_token=hunter2 (x)", "Max retries exceeded with url: /api/2.0?*** (x)"),
        ("dsn: host=db password=hunter2 user=me", "dsn: host=db password=*** user=me"),
        ("step 3 of 5: loss=0.5, num_tokens=4 at 3/4?", "step 3 of 5: loss=0.5, num_tokens=4 at 3/4?"),
    ],
)  # fmt: skip
def test_what_others_say_of_addresses(text: str, expected: str) -> None:
    assert mask(text) == expected


def test_a_client_that_cut_an_address_anywhere_shows_no_piece_of_its_secret() -> None:
    uri = "postgresql://me:hun@ter2/x?y@db.example/mlflow"
    said = 'could not translate host name "ter2" to address; tried hun, ter2/x?y at db.example/mlflow, ' + uri
    told = masked_in(said, uri)
    assert "hun" not in told and "ter2" not in told and "db.example/mlflow" in told
    assert masked_in("no such table: hun", "postgresql://db/mlflow") == "no such table: hun"


@pytest.mark.parametrize(("address", "expected"), HIDDEN)
def test_who_needs_it_has_it_whole(address: str, expected: str) -> None:
    config = {"data": {"shards": address, "list": [address, 3, None]}, "n": 1.5}
    hidden = hide_secrets(config)
    assert hidden == {"data": {"shards": expected, "list": [expected, 3, None]}, "n": 1.5}
    assert restore_secrets(hidden) == config and restored_address(expected, "data.shards") == address


def test_without_its_secret_an_address_says_how_to_give_it() -> None:
    with pytest.raises(UserError, match="is recorded without its secret; give it again: data.shards=") as raised:
        restored_address("https://h/x.tar?***", "data.shards")
    assert str(raised.value).startswith("data.shards: https://h/x.tar?*** is") and "\n" not in str(raised.value)
    assert restored_address("https://h/x.tar", "data.shards") == "https://h/x.tar"


def test_the_newest_secret_counts_and_the_environments_store_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for signature in ("old", "new"):
        hide_secrets(f"https://h/x.tar?sig={signature}")
    assert restore_secrets("https://h/x.tar?***") == "https://h/x.tar?sig=new"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hunter2@db/mlflow")
    assert restore_secrets("postgresql://***@db/mlflow") == "postgresql://me:hunter2@db/mlflow"
    assert json.loads(os.environ[addresses.VARIABLE]) == ["https://h/x.tar?sig=new"]


def test_more_than_an_environment_holds_is_refused() -> None:
    with pytest.raises(UserError, match="at most 100,000 can be handed on; name a folder or a pattern"):
        hide_secrets([f"https://h/{number}.tar?sig={'x' * 500}" for number in range(200)])
    assert hide_secrets([f"https://h/{number}.tar" for number in range(2000)])[-1] == "https://h/1999.tar"


def test_any_password_anywhere() -> None:
    for draw in range(2000):
        rng = random.Random(draw)
        secret = "".join(rng.choices(string.ascii_letters + string.digits + "@:/?#%&;,+ '\"~", k=24)) + "Zq7"
        encoded = "".join(letter if letter.isalnum() else f"%{ord(letter):02X}" for letter in secret)
        scheme = rng.choice(["http", "https", "postgresql", "mysql+pymysql", "s3", "mongodb"])
        form, shown = rng.choice(
            [
                (f"{scheme}://me:{encoded}@db.example:81/x", f"{scheme}://***@db.example:81/x"),
                (f"{scheme}://{encoded}@db.example:81/x", f"{scheme}://***@db.example:81/x"),
                (f"{scheme}://db.example:81/x?any={secret}", f"{scheme}://db.example:81/x?***"),
                (f"{scheme}://db.example:81/x;any={secret}", f"{scheme}://db.example:81/x;***"),
                (f"{scheme}://db.example:81/x#any={secret}", f"{scheme}://db.example:81/x#***"),
                (f"{scheme}://me:{secret}@db.example:81/x", None),
            ]
        )
        found = masked_address(form)
        assert found == shown if shown else "Zq7" not in found, draw


@pytest.mark.parametrize(
    "text",
    [
        "{http,http}://127.0.0.1:9/a.tar?sig=TOPSECRET",
        "http:{//u:TOPSECRET@h/a,//u:TOPSECRET@h/b}.tar",
        "http:/{/}u:TOPSECRET@h/a.tar",
        "//u:TOPSECRET@host/x",
        "u:TOPSECRET@host:5000/x",
    ],
)
def test_what_only_becomes_an_address_is_masked_too(text: str) -> None:
    hidden = addresses.hide_secrets({"a": text})["a"]
    assert "TOPSECRET" not in hidden and addresses.restore_secrets({"a": hidden}) == {"a": text}


@pytest.mark.parametrize("text", ["data/{000..010}.tar", "C:/faces@home/x", "a:b", "12:30", "me@host.org", "{a,b}/c?d"])
def test_what_is_no_address_stays(text: str) -> None:
    assert addresses.hide_secrets({"a": text}) == {"a": text}
