"""The web page of ``flowmaps demo``: what is asked and answered, apart from the widgets that show it."""
