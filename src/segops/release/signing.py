"""Keys that sign statements of decisions, and the DSSE envelope that holds the signature.

Source:
    Dead Simple Signing Envelope, https://github.com/secure-systems-lab/dsse, version 1.0.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

from segops.runtime.errors import SegopsError

KEY = "SEGOPS_SIGNING_KEY"
"""Environment variable with the path of the private key."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
KINDS = "Ed25519, ECDSA on P-256, P-384 or P-521, or RSA"
Loaded = TypeVar("Loaded")


def signer() -> CryptoSigner | None:
    """Return the signer with the private key that :data:`KEY` names; None where it is not set.

    Raises:
        SegopsError: The file cannot be read, or holds no private key that can sign here.
    """
    name = os.environ.get(KEY)
    if not name:
        return None

    def load(content: bytes) -> CryptoSigner:
        return CryptoSigner(load_pem_private_key(content, password=None))

    return _loaded(Path(name), f"{KEY}={name}", "private key", load)


def public_key(path: Path) -> SSlibKey:
    """Return the public key in a PEM file.

    Raises:
        SegopsError: The file cannot be read, or holds no public key of a known kind.
    """
    return _loaded(path, str(path), "public key", public_key_of)


def public_key_of(content: bytes) -> SSlibKey:
    """Return the public key of a PEM text.

    Raises:
        ValueError: It is none, or of an unknown kind.
    """
    try:
        return SSlibKey.from_crypto(load_pem_public_key(content))
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None


def public_pem(private: CryptoSigner) -> bytes:
    """Return a signer's public key as PEM."""
    key = load_pem_private_key(private.private_bytes, password=None)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def enveloped(payload: bytes, private: CryptoSigner | None) -> dict[str, Any]:
    """Return the DSSE envelope of a payload, ready for JSON; without a key it has no signature."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    if private is not None:
        envelope.sign(private)
    return dict(envelope.to_dict())


def opened(tree: dict[str, Any]) -> Envelope:
    """Return the envelope that :func:`enveloped` made.

    Raises:
        ValueError: It is another.
    """
    try:
        envelope = Envelope.from_dict(_copy(tree))
        if envelope.to_dict() != tree or envelope.payload_type != PAYLOAD_TYPE:
            raise ValueError("not an envelope that segops wrote")
    except (KeyError, TypeError, AttributeError, Error) as error:
        raise ValueError(f"no envelope: {error}") from None
    return envelope


def is_signed_with(envelope: Envelope, key: SSlibKey) -> bool:
    """Whether the only signature of an envelope is one of this key over its payload."""
    try:
        envelope.verify([key], 1)
    except VerificationError:
        return False
    return set(envelope.signatures) == {key.keyid}


def _copy(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a copy whose signatures :meth:`Envelope.from_dict` may change."""
    return {**tree, "signatures": [dict(one) for one in tree["signatures"]]}


def _loaded(path: Path, name: str, what: str, load: Callable[[bytes], Loaded]) -> Loaded:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise SegopsError(
            f"{name}: the {what} cannot be read: {error.strerror}. Expected a PEM file."
        ) from None
    except TypeError:  # cryptography's answer to a key that needs a password
        raise SegopsError(
            f"{name}: this {what} is encrypted, and segops asks for no password. Name a key "
            "without one that only you can read: `openssl pkey -in KEY.pem -out PLAIN.pem`."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise SegopsError(
            f"{name}: no {what} that can be used here. Expected PEM text of {KINDS}."
        ) from None
