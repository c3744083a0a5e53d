"""The sentences that the tiny tokenizers learn from, and the texts that the references encode."""

from __future__ import annotations

TRAINING_SENTENCES = [
    "The harbour of the old town lies on the north side of the river.",
    "A lighthouse keeper writes down the wind, the tide and the weather every hour.",
    "Retrieval finds the documents that answer a question, and ranks the best of them first.",
    "The query tokens look for their best match among the tokens of every document.",
    "search_query: what is the height of the tide? search_document: the tide rises twice a day",
    "def read_lines(path): return [line.strip() for line in open(path)]",
    "if value is None: raise ValueError('expected a number, found nothing')",
    "The keeper's daughter rowed out to the wreck and brought nine people back to the shore.",
    "Ships that came from the east waited for the flood before they entered the harbour.",
    "A masked word in a sentence is predicted from the words on the left and on the right.",
]

QUERIES = [
    "When does the tide enter the harbour of the old town?",
    "lighthouse",
    "",
    "who? what!! (where) ... when; why",
    "Ünïcode façade, naïve 東京 and the ﬁrst emoji 🌊",
    "the keeper wrote down the wind and the weather of every hour of every day in which a ship "
    "waited for the flood, and this question goes on for longer than any query may be long",
    "  two spaces before, a tab\tand a newline after\n",
    "a literal [MASK] and a [Q] in the text",
]

DOCUMENTS = [
    "The harbour lies on the north side of the river.",
    "tide",
    "",
    "... , ; : !? -- () [] {} <> ~ ^ ` ' \" # $ % & * + / = @ \\ | _",
    "Don't (ever!) quote: \"the wind, the tide, the weather\"; it's 3.14, isn't it?",
    "Ünïcode façade, naïve 東京 and the ﬁrst emoji 🌊, decomposed: ü",
    "def read_lines(path):\n    return [line.strip() for line in open(path)]\n",
    " ".join(
        f"On day {day} the keeper wrote down the wind, the tide and the weather of every hour."
        for day in range(1, 19)
    ),
    "\n   Spaces   before and  between words, and after them.  ",
    "A literal [MASK], a literal [D] and the end [SEP] of the text.",
    "The keeper's daughter rowed out to the wreck and brought nine people back to the shore, "
    "and the ships that came from the east waited for the flood.",
    "REPEATED repeated Repeated REPEATED repeated Repeated",
]
