"""The UDP session proxy: what it is configured by, decides by, and carries datagrams with."""
