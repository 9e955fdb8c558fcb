"""What another program imports: methods that make contexts, contexts, and the LLM that reads them.

`import mend` has the names (`mend.Distiller`, `mend.Context`, ...), and loads them when they are
asked for.
"""
