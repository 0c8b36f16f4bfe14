"""TLS on both ends of every gRPC connection: certificates, roles, and who may call what."""
