"""HTTP/2 as gRPC uses it (RFC 9113), without I/O: bytes in, messages and bytes out."""
