"""PostgreSQL: every port of the domain, on psycopg 3 in pipeline mode.

Nothing is imported here: the settings of the database are read where neither psycopg nor numpy is needed.
"""
