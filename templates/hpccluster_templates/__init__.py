"""The job-script templates: whole shell files, rendered by `hpccluster.backend.template`."""
