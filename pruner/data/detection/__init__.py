"""Detection data: pictures with boxes, from files in three layouts or drawn here."""
