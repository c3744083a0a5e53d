"""Indexes: exact, FAISS, PLAID and lexical, behind one interface, each a folder of versions."""
