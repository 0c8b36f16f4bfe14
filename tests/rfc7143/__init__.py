"""The target against RFC 7143, PDU by PDU, over TCP; see `docs/rfc7143.md`."""
