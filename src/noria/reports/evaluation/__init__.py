"""The dual-path evaluation: five textual and five visual metrics, their exact formulas, judges, and the
released order.
"""
