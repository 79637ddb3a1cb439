-- Pages of one kind in the order in which resources were made, and changed last.
CREATE INDEX resources_create_time ON resources (kind, create_time, name);
CREATE INDEX resources_update_time ON resources (kind, update_time, name);
