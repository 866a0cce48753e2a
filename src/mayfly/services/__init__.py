"""The verbs of Mayfly, over the bus: users, tokens, functions, invoke, activations, the janitor."""
