# Addresses, as C and as the socket module have them.


cdef object _endpoint(const address *where):
    """As the socket module has it."""
    cdef const uint8_t *packed
    if where.any.sa_family != _INET6:
        packed = <const uint8_t *>&where.v4.sin_addr
        return socket.inet_ntop(socket.AF_INET, packed[:4]), ntohs(where.v4.sin_port)
    packed = <const uint8_t *>&where.v6.sin6_addr
    name = socket.inet_ntop(socket.AF_INET6, packed[:16])
    scope = where.v6.sin6_scope_id
    if scope:
        try:
            name = f"{name}%{socket.if_indextoname(scope)}"
        except OSError:
            name = f"{name}%{scope}"
    return name, ntohs(where.v6.sin6_port), 0, scope


cdef int _to_networks(networks *them, header_from) except -1:
    """`each` is to be freed."""
    them.each, them.count = NULL, len(header_from)
    if not header_from:
        return 0
    them.each = <network *>calloc(len(header_from), sizeof(network))
    if them.each == NULL:
        raise MemoryError("networks")
    for number, one in enumerate(header_from):
        first, last = network_bounds(one)
        them.each[number].size = len(first)
        memcpy(them.each[number].first, <const uint8_t *>first, len(first))
        memcpy(them.each[number].last, <const uint8_t *>last, len(last))
    return 0


cdef int _to_address(address *where, endpoint) except -1:
    packed = sockets.pack(endpoint[0])
    scope = sockets.scope_of(endpoint)
    make_address(where, packed, len(packed), endpoint[1], scope)
    return 0
