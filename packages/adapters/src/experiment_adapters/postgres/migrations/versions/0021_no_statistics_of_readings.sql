-- Of arrays ANALYZE counts the elements: of tens of thousands of chunks all readings, which takes seconds of a processor,
-- again and again while readings come in. Nothing is ever looked for by them.

ALTER TABLE telemetry_chunks ALTER timestamps SET STATISTICS 0, ALTER "values" SET STATISTICS 0;
ALTER TABLE telemetry_physical_chunks ALTER "values" SET STATISTICS 0;
ALTER TABLE telemetry_overridden
    ALTER late SET STATISTICS 0, ALTER positions SET STATISTICS 0, ALTER timestamps SET STATISTICS 0,
    ALTER "values" SET STATISTICS 0;
ALTER TABLE telemetry_marks ALTER marks SET STATISTICS 0;
ALTER TABLE scalar_metrics
    ALTER steps SET STATISTICS 0, ALTER "values" SET STATISTICS 0, ALTER timestamps SET STATISTICS 0;
ALTER TABLE scalar_metric_chunks
    ALTER steps SET STATISTICS 0, ALTER "values" SET STATISTICS 0, ALTER timestamps SET STATISTICS 0;
