"""Results of other harnesses: compare two runs, import one, and show them in tables."""

ENTRIES = {
    "commands": {"import": "bench.parts.harnesses.command:import_results"},
    "services": {"foreign_results": "bench.parts.harnesses.elsewhere:HarnessResults"},
    "harnesses": {
        "lm-eval": "bench.parts.harnesses.lm_eval:LmEval",
        "lighteval": "bench.parts.harnesses.lighteval:Lighteval",
        "evalscope": "bench.parts.harnesses.evalscope:EvalScope",
        "every-eval-ever": "bench.parts.harnesses.every_eval_ever:EveryEvalEver",
        "llama-perplexity": "bench.parts.harnesses.kl_log:LlamaPerplexity",
    },
}
