"""Outside tools that distillation works with, one package each, imported only when used."""
