"""The networks of DUO-TOK: front end, trunk, bottlenecks, quantizer and heads."""
