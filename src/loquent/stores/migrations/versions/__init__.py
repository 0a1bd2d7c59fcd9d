"""The revisions of the SQL schema, in order; one that was released is never edited."""
