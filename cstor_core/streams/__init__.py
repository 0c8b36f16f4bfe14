"""The data streams over asyncio: HTTP/2 connections on sockets, as a client and as a server."""
