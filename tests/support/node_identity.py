"""A node's identity for tests, in the shape in which the node writes it; none of it is in use anywhere."""

from __future__ import annotations

from typing import Final

PEER_KEY: Final = "5ec4e7a1" * 28 + "5ec4"
"""228 digits."""
ENCRYPTION_KEY: Final = "0c0de5e4" * 8
KEY_STORE: Final = """\
"":
  id: ""
  type: 0
  privateKey: ""
  publicKey: ""
q-prover-key:
  id: q-prover-key
  type: 3
  privateKey: 5ec4e7b05ec4e7b0
  publicKey: aabb
"""
IDENTITY: Final = f"""\
key:
  keyManagerType: file
  keyManagerFile:
    path: .config/keys.yml
    createIfMissing: false
    encryptionKey: {ENCRYPTION_KEY}
p2p:
  peerPrivKey: {PEER_KEY}
"""
"""Of config.yml."""
SECRETS: Final = ("5ec4e7a1", "0c0de5e4", "5ec4e7b0")
"""What of it must stand in no output."""
