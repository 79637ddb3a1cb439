SELECT throwIf(1);
