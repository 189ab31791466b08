"""What runs inside a trace: plain functions of tensors, shipped by source to wherever the model is.

No function in this package may lean on a class, a closure, a decorator, an import made inside it or an
annotation on a local variable: a remote server rebuilds each one from its source, under another Python
and without this package. Checks and messages for the user belong to the code that plans a pass.
"""
