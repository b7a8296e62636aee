"""The weather that a proxy meets: real conditions, each in a line (docs/field.md lists them)."""
