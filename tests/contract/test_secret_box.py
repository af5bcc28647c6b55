"""What the sealing of secrets promises."""

import pytest

from experiment_adapters.webhooks.box import KEY_ID, AesGcmBox
from experiment_domain.webhooks.secrets import Unreadable, new_secret

OLD, NEW = b"an old secret key, of thirty-two bytes or more", b"a new secret key, of thirty-two bytes or more"


def test_what_is_sealed_opens_and_is_different_each_time():
    box, secret = AesGcmBox(OLD), new_secret()
    one, other = box.seal(secret, b"one"), box.seal(secret, b"one")
    assert one != other
    assert one[:KEY_ID] == other[:KEY_ID]
    assert box.open(one, b"one") == box.open(other, b"one") == secret
    assert secret.encode() not in one
    assert OLD[:8] not in one


def test_after_a_change_of_keys_both_open_and_the_new_one_seals():
    before, during, after = AesGcmBox(OLD), AesGcmBox(NEW, [OLD]), AesGcmBox(NEW)
    old = before.seal("secret", b"x")
    assert during.open(old, b"x") == "secret"
    new = during.seal("secret", b"x")
    assert after.open(new, b"x") == "secret"
    assert new[:KEY_ID] != old[:KEY_ID]
    for box, sealed in ((after, old), (before, new)):
        with pytest.raises(Unreadable):
            box.open(sealed, b"x")


@pytest.mark.parametrize("place", [0, KEY_ID, KEY_ID + 12, -1])
def test_what_was_tampered_with_does_not_open(place: int):
    box = AesGcmBox(OLD)
    sealed = bytearray(box.seal("secret", b"x"))
    sealed[place] ^= 1
    for broken in (bytes(sealed), bytes(sealed[:KEY_ID]), b""):
        with pytest.raises(Unreadable) as refusal:
            box.open(broken, b"x")
        assert "secret" not in str(refusal.value.__context__)
    with pytest.raises(Unreadable):
        box.open(box.seal("secret", b"x"), b"y")
