"""How a volume is cut, and how a block is computed: settings, plan, kernel."""
